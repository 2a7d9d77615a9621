//! What is learnt from the cluster: the keys of its token issuers, what it says of a token, whether what a token is bound to still lives, and
//! which pods are on which node. Also who operates us over the network, what RBAC lets him do, and how he reaches us through the API server.

mod api_server;
mod clusters;
mod credentials;
mod fetch;
mod forwarded;
mod index;
mod installation;
pub mod key_sets;
mod kubernetes;
mod lease;
pub mod liveness;
mod lookups;
mod objects;
mod operators;
mod own_objects;
mod remote;
mod remote_secret;
mod service_account_token;
mod survey;
mod token_review;
mod watched;

pub use api_server::{Access, ApiError, ApiServer};
pub use clusters::{Clusters, Member, Named, Review};
pub use credentials::Validity;
pub use fetch::{FetchError, KeySource};
pub use forwarded::Forwarded;
pub(crate) use index::Index;
pub use index::Resource;
pub use installation::{Installation, RunningPod};
pub use key_sets::{IssuerStatus, KeySets, KeyTrouble, Timing, TrackedIssuer};
pub use kubernetes::{ClusterStatus, Kubernetes, KubernetesParts};
pub use lease::{Election, ElectionParts, LeaseStatus, LeaseTiming};
pub use liveness::{Bound, Life, Liveness, NoCluster, WhyGone};
pub use lookups::{LookupCounts, LookupLimits};
pub(crate) use objects::{Metadata, Named as NamedObject};
pub use operators::{ClusterUser, GROUP, NobodyKnows, Operators, Permission};
pub use own_objects::{Object, OwnObjects};
pub use remote::{RemoteParts, RemoteStatus, Remotes};
pub use remote_secret::{MadeSecret, RemoteSecret};
pub use survey::{
    ApiVersion, CaSecret, CertManagerIssuer, Injector, Installed, IstioCsr, IstiodTls, MeshConfig, NamespaceRoots, Needed, Program, Proxy, Signing,
    Survey, Surveyor, WITHOUT_ROOTS, Webhook,
};
pub use token_review::{Reviewed, Reviewer, TokenReviewer};
pub use watched::WatchStatus;
pub(crate) use watched::{Scope, Watched};
