//! The seam: who an operator is and what he may. Kubernetes is the one that there is (`kubernetes.rs`).

use std::fmt::Debug;

use async_trait::async_trait;

use super::operator::Operator;
use super::permissions::Operation;
use crate::cluster::NobodyKnows;

/// Somebody who knows operators by their tokens, and what each of them may.
#[async_trait]
pub trait Directory: Send + Sync + Debug {
    /// Whom this token stands for; `None` where it stands for nobody.
    ///
    /// # Errors
    /// [`NobodyKnows`]: that is nobody's fault, and never a yes.
    async fn who(&self, token: &str) -> Result<Option<Operator>, NobodyKnows>;

    /// Whether he may do this. One whom this directory doesn't know may nothing.
    ///
    /// # Errors
    /// [`NobodyKnows`]: that is nobody's fault, and never a yes.
    async fn may(&self, operator: &Operator, operation: Operation) -> Result<bool, NobodyKnows>;

    /// Whom this token stands for, where it was found out a moment ago that he may do this. It costs nobody anything.
    fn remembers(&self, token: &str, operation: Operation) -> Option<Operator>;
}
