//! Operators whom Kubernetes knows: TokenReview says who, SubjectAccessReview what he may.

use async_trait::async_trait;

use super::directory::Directory;
use super::operator::{Operator, Who};
use super::permissions::Operation;
use crate::cluster::{NobodyKnows, Operators};

#[async_trait]
impl Directory for Operators {
    async fn who(&self, token: &str) -> Result<Option<Operator>, NobodyKnows> {
        Ok(self.user(token).await?.map(Operator::kubernetes))
    }

    async fn may(&self, operator: &Operator, operation: Operation) -> Result<bool, NobodyKnows> {
        match &operator.who {
            Who::Kubernetes(user) => self.allows(user, operation.permission()).await,
            Who::Local { .. } => Ok(false),
        }
    }

    fn remembers(&self, token: &str, operation: Operation) -> Option<Operator> {
        self.remembers(token, operation.permission()).map(Operator::kubernetes)
    }
}
