//! Who may ask: decisions over facts that are handed in. Nothing here fetches anything.

/// A Kubernetes object that a token is bound to: the name may come again, the UID never does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}
