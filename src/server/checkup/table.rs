//! The one table of checks: the id of each, where it stands in the report, and what to do where it isn't well. The server gives facts by
//! these ids, `meshmint check` shows them and adds its own; docs/checks.md has a section for each id.

/// Something that can be well or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "docs/checks.md has a section for each; `Row::title` says it in short")]
pub enum Check {
    ConfigReadable,
    AdminAnswers,
    VersionMatches,
    ClockAgrees,
    Running,
    NotDraining,
    NoPanics,
    Entropy,
    ClockForward,
    RootCertificate,
    IssuingCertificate,
    ServingCertificate,
    AuthorityRenewals,
    AuthorityAccepted,
    LedgerWritable,
    LedgerIdentity,
    LedgerComplete,
    LedgerKeepsUp,
    LedgerSpace,
    LedgerStandby,
    LedgerDrained,
    StateFollowed,
    LeaderKnown,
    StateComplete,
    StatePrivate,
    StateSpace,
    TokenKeys,
    TokenIssuer,
    CallersServed,
    ClusterKnown,
    RemoteClusters,
    RootConfigMaps,
    IstiodCertificate,
    IstiodBundle,
    Cacerts,
    RequestsRoom,
    ConnectionsRoom,
    NoRefusals,
    OpenFiles,
    CsrAnswers,
    CsrCertificate,
    CsrNames,
    MeshReadable,
    MeshClock,
    MeshVersions,
    MeshPermissions,
    MeshRoots,
    MeshIstiod,
    MeshCompliance,
    MeshAddress,
    MeshWorkloads,
    MeshWebhooks,
}

/// What there is to say of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its id: the section of docs/checks.md.
    pub id: &'static str,
    /// The heading that it stands under.
    pub group: &'static str,
    /// What to do where it isn't well, in one line.
    pub hint: &'static str,
}

impl Check {
    /// All of them, in the order of the report; those of one group stand together.
    pub const ALL: &[Self] = &[
        Self::ConfigReadable,
        Self::AdminAnswers,
        Self::VersionMatches,
        Self::ClockAgrees,
        Self::Running,
        Self::NotDraining,
        Self::NoPanics,
        Self::Entropy,
        Self::ClockForward,
        Self::RootCertificate,
        Self::IssuingCertificate,
        Self::ServingCertificate,
        Self::AuthorityRenewals,
        Self::AuthorityAccepted,
        Self::LedgerWritable,
        Self::LedgerIdentity,
        Self::LedgerComplete,
        Self::LedgerKeepsUp,
        Self::LedgerSpace,
        Self::LedgerStandby,
        Self::LedgerDrained,
        Self::StateFollowed,
        Self::LeaderKnown,
        Self::StateComplete,
        Self::StatePrivate,
        Self::StateSpace,
        Self::TokenKeys,
        Self::TokenIssuer,
        Self::CallersServed,
        Self::ClusterKnown,
        Self::RemoteClusters,
        Self::RootConfigMaps,
        Self::IstiodCertificate,
        Self::IstiodBundle,
        Self::Cacerts,
        Self::RequestsRoom,
        Self::ConnectionsRoom,
        Self::NoRefusals,
        Self::OpenFiles,
        Self::CsrAnswers,
        Self::CsrCertificate,
        Self::CsrNames,
        Self::MeshReadable,
        Self::MeshClock,
        Self::MeshVersions,
        Self::MeshPermissions,
        Self::MeshRoots,
        Self::MeshIstiod,
        Self::MeshCompliance,
        Self::MeshAddress,
        Self::MeshWorkloads,
        Self::MeshWebhooks,
    ];

    /// The check of this id.
    pub fn find(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|check| check.row().id == id)
    }

    /// Its row of the table.
    pub fn row(self) -> Row {
        let row = |id, group, hint| Row { id, group, hint };
        let server = |id, hint| row(id, "server", hint);
        let authority = |id, hint| row(id, "authority", hint);
        let ledger = |id, hint| row(id, "ledger", hint);
        let state = |id, hint| row(id, "state", hint);
        let load = |id, hint| row(id, "load", hint);
        let mesh = |id, hint| row(id, "mesh", hint);
        let csr = |id, hint| row(id, "CSR port", hint);
        match self {
            Self::ConfigReadable => server("config-readable", "put it right; `meshmint config check FILE` names every problem"),
            Self::AdminAnswers => server("admin-answers", "start `meshmint dev` or `meshmint serve --config FILE`; ask as the user that it runs as"),
            Self::VersionMatches => server("version-matches", "restart the server with the new binary, or use the binary that it runs"),
            Self::ClockAgrees => server("clock-agrees", "set the clock of this machine or of the server's"),
            Self::Running => server("running", "start it"),
            Self::NotDraining => server("not-draining", "it is going down; start it again where nobody meant it to"),
            Self::NoPanics => server("no-panics", "a bug: find `a request panicked` in the log and report it"),
            Self::Entropy => server("entropy", "nothing can be issued without random bytes: look at /dev/urandom and the kernel's log"),
            Self::ClockForward => server("clock-forward", "set the server's clock; use an NTP client that slews"),
            Self::RootCertificate => authority("root-certificate", "plan the move to a new root now: every workload must learn it first"),
            Self::IssuingCertificate => {
                authority("issuing-certificate", "find `could not be kept up to date` in the log; an imported authority must be replaced")
            }
            Self::ServingCertificate => {
                authority("serving-certificate", "find `the serving certificate was not renewed` in the log; mostly it is the ledger")
            }
            Self::AuthorityRenewals => {
                authority("authority-renewals", "find `could not be kept up to date` in the log; mostly it is the state folder's disk")
            }
            Self::AuthorityAccepted => {
                authority("authority-accepted", "move to an authority without that: `meshmint inspect` says what departs in a certificate")
            }
            Self::LedgerWritable => ledger(
                "ledger-writable",
                "free space on its disk, or bring its files or its database back: nothing is issued until then, and no restart is needed",
            ),
            Self::LedgerIdentity => ledger("ledger-identity", "put the ledger back that belongs to this state"),
            Self::LedgerComplete => {
                ledger("ledger-complete", "agents with only a certificate from before need a token; keep the old ledger's remains")
            }
            Self::LedgerKeepsUp => ledger("ledger-keeps-up", "its disk is too slow for what is asked: see what else uses it, or move the ledger"),
            Self::LedgerSpace => ledger("ledger-space", "free space, or lower ledger.retention"),
            Self::LedgerStandby => ledger("ledger-standby", "set synchronous_standby_names in the database, so that commits wait for it"),
            Self::LedgerDrained => ledger("ledger-drained", "bring the database back; until then keep this replica and its volume"),
            Self::StateFollowed => {
                state("state-followed", "see that the API server answers and that our account may get the Secrets (deploy/kubernetes/state.yaml)")
            }
            Self::LeaderKnown => state(
                "leader-known",
                "see that a replica of role all or authority runs, and that it may get and patch the Lease (deploy/kubernetes/state.yaml)",
            ),
            Self::StateComplete => state("state-complete", "restore it from your backup before any restart: what goes on here is only in memory"),
            Self::StatePrivate => state("state-private", "give the folder and its files back to the server's user: folders 0700, files 0600"),
            Self::StateSpace => state("state-space", "free space before the next renewal"),
            Self::TokenKeys => row("token-keys", "callers", "see that the key set's file or URL can be read from the server's machine"),
            Self::TokenIssuer => row(
                "token-issuer",
                "callers",
                "set tokens.issuers to what `kubectl get --raw /.well-known/openid-configuration` calls issuer, and restart",
            ),
            Self::CallersServed => {
                row("callers-served", "callers", "see what the line says; the log names each reason, and refusals.md what it means")
            }
            Self::ClusterKnown => {
                row("cluster-known", "callers", "see that the API server answers and that our account may list and watch (deploy/kubernetes)")
            }
            Self::RemoteClusters => row(
                "remote-clusters",
                "callers",
                "see what the detail says: apply deploy/kubernetes/rbac.yaml there, make its Secret anew with `meshmint cluster secret`, or see why its API server can't be reached",
            ),
            Self::RootConfigMaps => row(
                "root-configmaps",
                "clusters",
                "see what the detail says; for permissions apply deploy/kubernetes/controllers.yaml in that cluster",
            ),
            Self::IstiodCertificate => row(
                "istiod-certificate",
                "clusters",
                "see what the detail says; for permissions apply deploy/kubernetes/istiod.yaml in that cluster; delete a Secret istiod-tls that nobody keeps any more",
            ),
            Self::IstiodBundle => row(
                "istiod-bundle",
                "clusters",
                "wait some minutes; then see that istiod mounts istiod-tls and istio-ca-root-cert and that its CA is off; restart it where nothing helps",
            ),
            Self::Cacerts => row(
                "cacerts",
                "clusters",
                "see what the detail says; for permissions apply deploy/kubernetes/cacerts.yaml in that cluster; delete a Secret cacerts that nobody keeps any more",
            ),
            Self::RequestsRoom => load("requests-room", "find who asks so much, add a machine's worth of cores, or raise server.maxInFlight"),
            Self::ConnectionsRoom => load("connections-room", "find who holds them, or raise server.maxConnections with the limit of open files"),
            Self::NoRefusals => {
                load("no-refusals", "the reasons are in docs/refusals.md; `overloaded` is too much at once, the others are our trouble")
            }
            Self::OpenFiles => load("open-files", "raise LimitNOFILE (ulimit -n) above server.maxConnections, or lower that"),
            Self::CsrAnswers => csr("csr-answers", "see that the port is open from here and that nothing else listens there"),
            Self::CsrCertificate => csr("csr-certificate", "see serving-certificate; if it doesn't verify, another server answers on this port"),
            Self::MeshReadable => mesh("mesh-readable", "give --kubeconfig and --context of a cluster that answers, as `kubectl version` does"),
            Self::MeshClock => mesh("mesh-clock", "set the clock of this machine or of the API server's: tokens are refused beyond tokens.clockSkew"),
            Self::MeshVersions => mesh("mesh-versions", "update what is too old; restart ztunnel after a new root where the line says so"),
            Self::MeshPermissions => {
                mesh("mesh-permissions", "apply the files of deploy/kubernetes for what is configured, or name our account with --account")
            }
            Self::MeshRoots => mesh("mesh-roots", "write the trust bundle into ConfigMap istio-ca-root-cert, key root-cert.pem, of these namespaces"),
            Self::MeshIstiod => {
                mesh("mesh-istiod", "set pilot.env.ENABLE_CA_SERVER to \"false\" in istiod's chart, once everybody trusts our root and asks us")
            }
            Self::MeshCompliance => mesh("mesh-compliance", "set another COMPLIANCE_POLICY: post-quantum key exchange isn't served yet"),
            Self::MeshAddress => {
                mesh("mesh-address", "set global.caAddress in istiod's chart and caAddress in ztunnel's to HOST:PORT of the CSR port")
            }
            Self::MeshWorkloads => mesh("mesh-workloads", "restart what makes these pods: whom a proxy asks is written into its pod"),
            Self::MeshWebhooks => {
                mesh("mesh-webhooks", "see that istiod has the trust bundle in its istiod-tls (ca.crt), and restart it where it doesn't patch them")
            }
            Self::CsrNames => csr("csr-names", "set server.servingDNSNames and server.servingIPAddresses, and restart"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_groups_stand_together() {
        let ids: BTreeSet<_> = Check::ALL.iter().map(|check| check.row().id).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        assert!(Check::ALL.iter().all(|check| Check::find(check.row().id) == Some(*check)));
        assert_eq!(Check::find("attic"), None);
        let mut groups: Vec<_> = Check::ALL.iter().map(|check| check.row().group).collect();
        groups.dedup();
        assert_eq!(groups.len(), groups.iter().collect::<BTreeSet<_>>().len(), "{groups:?}");
    }

    #[test]
    fn each_has_its_section_in_the_docs() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md")).unwrap();
        let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let ids: Vec<_> = Check::ALL.iter().map(|check| check.row().id).collect();
        assert_eq!(sections, ids, "in the order of the report");
    }
}
