//! The one table of configuration keys: path, kind, default, meaning. It drives reading (`document`, `environment`), checking (`check`),
//! `config print` and docs/configuration.md (`print`), so none of them can know a key or a default that the others don't.

use super::units;

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// Its path; `[]` stands for the number of an item in a list.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Preset,
    /// One sentence for people.
    pub(super) meaning: &'static str,
    /// Whether the value itself must never be printed. Today keys and tokens are named by path only, so none is.
    pub(super) secret: bool,
}

/// What meshmint makes where it isn't there.
const MADE_HERE: [&str; 3] = ["state.file.dir", "ledger.sqlite.path", "ledger.spool.path"];

impl Key {
    /// Whether its value is a file that somebody else has to put there.
    pub(super) fn names_a_given_file(&self) -> bool {
        matches!(self.kind, Kind::Path) && !MADE_HERE.contains(&self.path)
    }
}

/// What a key has where nobody gives it a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preset {
    Is(&'static str),
    /// A list, comma-separated.
    Items(&'static str),
    /// Left out unless given; the text is an example.
    Optional(&'static str),
    /// Must be given; the text is an example.
    Required(&'static str),
}

/// What a value looks like, with its bounds (both included). Durations are in milliseconds, sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    TrustDomain,
    Text,
    Texts,
    DnsNames,
    Addresses,
    /// `namespace/service-account`
    Accounts,
    Listen,
    Path,
    Socket,
    Url,
    /// A PostgreSQL database.
    Database,
    Duration(u64, u64),
    Size(u64, u64),
    Count(u64, u64),
    Percent(u8, u8),
    Choice(&'static [&'static str]),
    Flag,
}

impl Kind {
    /// What would be right, as it follows "expected".
    pub(super) fn expected(self) -> String {
        let millis = |value| units::duration_text(std::time::Duration::from_millis(value));
        match self {
            Self::TrustDomain => "a trust domain like cluster.local: 1 to 255 of a-z, 0-9, '.', '-' and '_'".to_owned(),
            Self::Text => "a text that is not empty".to_owned(),
            Self::Texts => "a list of different texts like [istio-ca], none of them empty".to_owned(),
            Self::DnsNames => "a list of different DNS names like [meshmint.meshmint-system.svc], in lower case and without wildcards".to_owned(),
            Self::Addresses => "a list of different IP addresses like [127.0.0.1]".to_owned(),
            Self::Accounts => "a list of different NAMESPACE/SERVICE-ACCOUNT like [istio-system/ztunnel]".to_owned(),
            Self::Listen => "an address with a port like 0.0.0.0:8443 or [::]:8443".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Socket => format!("a path of at most {MAX_SOCKET_BYTES} bytes (the system's limit for sockets)"),
            Self::Url => "an https URL with a host and without user, password or fragment".to_owned(),
            Self::Database => "a URL postgresql://USER@HOST:PORT/DATABASE without a password (several hosts with commas; sslmode=verify-full, the default, or disable)".to_owned(),
            Self::Duration(least, most) => format!("a duration from {} to {}, like 30s, 2m, 1h30m or 30d", millis(least), millis(most)),
            Self::Size(least, most) => format!("a size from {} to {}, like 64KiB", units::size_text(least), units::size_text(most)),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Percent(least, most) => format!("a share from {least}% to {most}% in whole percent, like 10%"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Flag => "true (leave the key out otherwise)".to_owned(),
        }
    }

    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::Texts | Self::DnsNames | Self::Addresses | Self::Accounts)
    }
}

/// `sun_path` of unix(7) without its final zero.
pub(super) const MAX_SOCKET_BYTES: usize = 107;

const SWITCH: Kind = Choice(&["true", "false"]);

const S: u64 = 1_000;
const M: u64 = 60 * S;
const H: u64 = 60 * M;
const D: u64 = 24 * H;

use Kind::{Accounts, Addresses, Choice, Count, Database, DnsNames, Duration, Flag, Listen, Path, Percent, Size, Socket, Text, Texts, Url};
use Preset::{Is, Items, Optional, Required};

const fn key(path: &'static str, kind: Kind, default: Preset, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning, secret: false }
}

/// Every key, in the order of printing. Keys of one section stand together.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("trustDomain", Kind::TrustDomain, Is("cluster.local"), "The SPIFFE trust domain of every identity that is issued. It can't change once there is a root."),
    key("clusterID", Text, Is("Kubernetes"), "The name of the cluster whose workloads ask here; on record with each certificate."),

    key("role", Choice(&["all", "issuer", "authority"]), Is("all"), "What this replica does. An issuer faces the mesh and can't read the root key; an authority has no CSR port, leads, and makes issuing keys. Roles apart need state.store: secrets and a ledger in PostgreSQL."),

    key("server.listen", Listen, Is("0.0.0.0:8443"), "Where the CSR API listens."),
    key("server.servingDNSNames", DnsNames, Items("meshmint.meshmint-system.svc"), "DNS names in the server's own certificate: the host of Istio's caAddress."),
    key("server.servingIPAddresses", Addresses, Items(""), "IP addresses in the server's own certificate."),
    key("server.servingLifetime", Duration(S, 90 * D), Is("24h"), "Lifetime of the server's own certificate, which it renews by itself; at most a third of authority.issuingLifetime is used."),
    key("server.connectionMaxAge", Duration(S, 30 * D), Is("30m"), "Age at which a connection is told to go away (GOAWAY), so that replicas share the load."),
    key("server.requestTimeout", Duration(100, 10 * M), Is("10s"), "Deadline of each request; Istio's clients set none."),
    key("server.handshakeTimeout", Duration(100, 5 * M), Is("10s"), "How long a TLS handshake may take."),
    key("server.maxConnections", Count(2, 1_000_000), Is("16000"), "Connections open at once, half of them at most of peers that have got no certificate yet. Where there is no room, the oldest of whoever holds most goes."),
    key("server.maxBufferedBytes", Size(1 << 20, 64 << 30), Is("128MiB"), "Bytes of requests that are not decoded yet and of answers that were not read yet, over all connections. Beyond it, whoever holds most is cut off."),
    key("server.maxHandshakes", Count(1, 100_000), Is("256"), "Handshakes that are worked on at once; others wait in line. Who is only waited for doesn't count."),
    key("server.handshakeQueueTime", Duration(10, M), Is("5s"), "Longest wait of a new connection for its handshake, fair by address; then it is closed, the cheapest refusal there is."),
    key("server.maxConcurrentStreams", Count(1, 10_000), Is("100"), "Requests at once on one connection (HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS)."),
    key("server.maxRequestBytes", Size(4 << 10, 4 << 20), Is("64KiB"), "Longest message that is read."),
    key("server.maxInFlight", Count(1, 100_000), Is("10000"), "Requests at once over all connections, waiting ones included; more get RESOURCE_EXHAUSTED with RetryInfo."),
    key("server.queueTime", Duration(10, M), Is("1s"), "Longest wait of a request for its turn, fair by namespace, account and pod; then, or at once where it can't be in time, RESOURCE_EXHAUSTED."),
    key("server.drainTimeout", Duration(0, 10 * M), Is("20s"), "How long requests under way may take to finish after SIGTERM."),
    key("server.reflection", SWITCH, Is("false"), "Whether gRPC's server reflection is served, for tools like grpcurl. Nobody in a mesh needs it."),
    key("server.keepaliveInterval", Duration(S, H), Is("30s"), "Time between HTTP/2 pings to an idle client; a dead one is dropped."),

    key("tokens.audiences", Texts, Items("istio-ca"), "Audiences of which a token must carry one."),
    key("tokens.clockSkew", Duration(0, 5 * M), Is("30s"), "How far a token's times may be off."),
    key("tokens.maxLifetimeUnbound", Duration(M, 366 * D), Is("24h"), "Longest lifetime accepted of a token that is bound to no object, as istioctl makes them for virtual machines."),
    key("tokens.trustedNodeAccounts", Accounts, Items("istio-system/ztunnel"), "Accounts that may ask for the identities of pods on their own node (istio-csr: caTrustedNodeAccounts)."),
    key("tokens.verification", Choice(&["local", "tokenReview"]), Is("local"), "Who says that a token is good: we, by published keys and by watching what it is bound to, or the cluster, asked for each."),
    key("tokens.issuers[].issuer", Text, Required("https://kubernetes.default.svc.cluster.local"), "The issuer (`iss`) of tokens, exactly as they carry it: what `kubectl get --raw /.well-known/openid-configuration` calls issuer. This is kubeadm's default; managed clusters have others. At least one issuer, each only once."),
    key("tokens.issuers[].keys.file", Path, Optional("jwks.json"), "Its public keys, a JWK Set in a file. Exactly one of file, url, discovery and apiServer."),
    key("tokens.issuers[].keys.url", Url, Optional("https://issuer.example/keys"), "Its public keys, a JWK Set at an https URL."),
    key("tokens.issuers[].keys.discovery", Flag, Optional("true"), "Its public keys, found through OIDC discovery below the issuer, which must be an https URL."),
    key("tokens.issuers[].keys.apiServer", Flag, Optional("true"), "Its public keys, as the API server of the cluster (section cluster) publishes them; the usual place for its service-account tokens."),
    key("tokens.issuers[].keys.caFile", Path, Optional("/etc/ssl/issuer-ca.pem"), "The roots (PEM) that the server of url or discovery must chain to."),
    key("tokens.issuers[].refreshInterval", Duration(S, D), Is("5m"), "How often its keys are read again."),
    key("tokens.issuers[].maxAge", Duration(S, 30 * D), Is("24h"), "How long the last good keys serve while reading fails."),

    key("cluster.inCluster", Flag, Optional("true"), "Ask the API server of the cluster that this runs in, as the pod's service account. This or kubeconfig makes tokens count only while pod and account live, and lets ztunnel ask for others."),
    key("cluster.kubeconfig", Path, Optional("/etc/meshmint/kubeconfig"), "Ask the API server of this kubeconfig's current context instead."),
    key("cluster.aliases", Texts, Items("Kubernetes"), "Other names that agents have for this cluster (`clusterid`; istiod: CLUSTER_ALIASES). Read only with remoteSecretsNamespace: without it all agents are in this cluster, whatever they call it."),
    key("cluster.remoteSecretsNamespace", Text, Optional("meshmint-system"), "Where the Secrets are that name other clusters (label istio/multiCluster=true, as `meshmint cluster secret` makes them). A token then counts only in the cluster that its agent names."),
    key("cluster.maxStaleness", Duration(5 * M, 30 * D), Is("1h"), "How long the last known pods, accounts and nodes are believed while the API server is away; then UNAVAILABLE."),

    key("controllers.rootConfigMap.enabled", SWITCH, Is("false"), "Write the trust bundle into a ConfigMap in every namespace of every cluster, as istiod does while it is the CA. Only once istiod's CA is off: both would write the same one."),
    key("controllers.rootConfigMap.name", Text, Is("istio-ca-root-cert"), "The ConfigMap's name; its key is root-cert.pem."),
    key("controllers.rootConfigMap.namespaceSelector", Text, Optional("istio-discovery=enabled"), "Only in namespaces that this label selector chooses (istio-csr: configmapNamespaceSelector); never in kube-public, kube-node-lease and local-path-storage."),

    key("controllers.istiod.namespace", Text, Optional("istio-system"), "istiod's namespace: keep the Secret istiod-tls there, which istiod serves with. A Secret of somebody else is left alone."),
    key("controllers.istiod.clusters", Texts, Items(""), "The clusters of these istiods: clusterID for our own, others as cluster.remoteSecretsNamespace has them. Empty means our own."),
    key("controllers.istiod.revisions", Texts, Items("default"), "Revisions of istiod there; each has its name in the certificate."),
    key("controllers.istiod.certificateLifetime", Duration(10 * M, 90 * D), Is("24h"), "Lifetime of istiod's certificate, which is renewed at half of it; at most a third of authority.issuingLifetime is used."),

    key("controllers.cacerts.namespace", Text, Optional("istio-system"), "For a mesh that keeps istiod as its CA: istiod's namespace. Keep the Secret cacerts there, which lets istiod sign below our root with an intermediate of its own. A Secret of somebody else is left alone."),
    key("controllers.cacerts.clusters", Texts, Items(""), "The clusters of these istiods: clusterID for our own, others as cluster.remoteSecretsNamespace has them. Empty means our own."),
    key("controllers.cacerts.lifetime", Duration(2 * D, 3_653 * D), Is("180d"), "Lifetime of an intermediate. It is renewed at half of it, so that nothing is cut that istiod signs for up to the other half: for 90 days at most, unless istiod is told otherwise."),

    key("certificates.defaultLifetime", Duration(S, 90 * D), Is("24h"), "Lifetime where a request asks for none."),
    key("certificates.maxLifetime", Duration(S, 90 * D), Is("24h"), "Longest lifetime; a request for more gets this."),
    key("certificates.backdate", Duration(0, H), Is("2m"), "How far notBefore lies in the past. No certificate lives shorter than five times this."),
    key("certificates.jitter", Percent(0, 50), Is("10%"), "Each lifetime is cut by a random share up to this, so that renewals spread."),

    key("authority.keyAlgorithm", Choice(&["p256", "p384"]), Is("p256"), "Kind of the keys that are made for root and issuing authorities."),
    key("authority.rootLifetime", Duration(S, 36_525 * D), Is("3650d"), "Lifetime of a root that is made here."),
    key("authority.issuingLifetime", Duration(S, 3_653 * D), Is("30d"), "Lifetime of an issuing authority, which is renewed long before it could shorten a certificate."),
    key("authority.import.certFile", Path, Optional("ca-cert.pem"), "An existing CA certificate to start from; read only while the state is empty."),
    key("authority.import.keyFile", Path, Optional("ca-key.pem"), "Its private key (PKCS#8, SEC1 or PKCS#1)."),
    key("authority.import.chainFile", Path, Optional("cert-chain.pem"), "The certificates between it and its root, in any order."),
    key("authority.import.rootFile", Path, Optional("root-cert.pem"), "Its root, where it is not self-signed and the chain doesn't end with it."),

    key("state.store", Choice(&["file", "secrets"]), Is("file"), "Where the authority state and its keys are: a folder, for one replica, or Secrets of the cluster (section cluster), for any number of them."),
    key("state.file.dir", Path, Is("/var/lib/meshmint"), "Folder of the authority state and the keys; made 0700. A folder that lets others in gets one of our own inside, called state."),
    key("state.secrets.namespace", Text, Is("meshmint-system"), "Namespace of the Secrets and of the Lease by which one replica leads."),
    key("state.secrets.prefix", Text, Is("meshmint"), "How their names begin: PREFIX-state, PREFIX-root, PREFIX-issuing and the Lease PREFIX-leader. Two installations in one namespace need two."),

    key("ledger.sqlite.path", Path, Is("/var/lib/meshmint/ledger.db"), "The ledger: every certificate ever issued. For one replica; several share a database (ledger.postgres)."),
    key("ledger.postgres.url", Database, Optional("postgresql://meshmint@db.example/meshmint"), "A PostgreSQL database that keeps the ledger instead, for any number of replicas. With several hosts, the one that may be written."),
    key("ledger.postgres.caFile", Path, Optional("/etc/ssl/database-ca.pem"), "The roots (PEM) that the database's server must chain to, instead of the system's."),
    key("ledger.postgres.passwordFile", Path, Optional("/etc/meshmint/database-password"), "A file with the password; read at each connect."),
    key("ledger.postgres.poolSize", Count(1, 100), Is("4"), "Connections of a replica for questions; three more are for writing."),
    key("ledger.onOutage", Choice(&["refuse", "spool"]), Is("refuse"), "What happens while the database can't be written: no certificate leaves, or it leaves and is kept on the replica's own volume until then."),
    key("ledger.spool.path", Path, Is("/var/lib/meshmint/spool.db"), "Where they are kept; on a volume that outlives the process."),
    key("ledger.spool.maxOutage", Duration(S, 7 * D), Is("1h"), "How long after the database was written last a replica goes on like that."),
    key("ledger.retention", Duration(0, 3_653 * D), Is("30d"), "How long a certificate stays on record after its notAfter."),

    key("admin.socket", Socket, Is("/run/meshmint/admin.sock"), "The Unix socket (0600) of the admin API."),
    key("admin.listen", Listen, Optional("0.0.0.0:8444"), "Where the admin API listens over TLS as well, for whom Kubernetes RBAC lets in (deploy/kubernetes/admin.yaml). Needs a cluster."),
    key("admin.audience", Text, Is("meshmint-admin"), "Audience of the tokens that are shown there; none of tokens.audiences."),
    key("health.listen", Listen, Is("0.0.0.0:8080"), "Where /livez and /readyz are."),
    key("metrics.listen", Listen, Is("0.0.0.0:9402"), "Where Prometheus metrics are."),
    key("log.format", Choice(&["text", "json"]), Is("text"), "Form of the log."),
    key("log.level", Choice(&["error", "warn", "info", "debug", "trace"]), Is("info"), "Least level that is logged."),
    key("tracing.otlp.endpoint", Text, Optional("http://localhost:4317"), "Where traces of requests go, by OTLP over gRPC (http or https); only in a program that was built with the feature otlp."),
    key("tracing.otlp.sampleShare", Percent(0, 100), Is("1%"), "Share of requests that is traced. A caller's traceparent is continued, but can't make it more."),
];

/// The key at a path of the table (with `[]` for every number).
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The path of the table for a path of a document: `tokens.issuers[3].issuer` → `tokens.issuers[].issuer`.
pub(super) fn table_path(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|character| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                _ => return !inside,
            }
            true
        })
        .collect()
}

/// The name of the environment variable for a key; none for the keys of list items.
pub(super) fn environment_name(path: &str) -> Option<String> {
    if path.contains('[') {
        return None;
    }
    let mut name = "MESHMINT_".to_owned();
    let characters: Vec<char> = path.chars().collect();
    for (index, character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| characters.get(index));
        let after = characters.get(index + 1);
        let word_starts = character.is_ascii_uppercase()
            && before
                .is_some_and(|before| before.is_ascii_lowercase() || (before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase)));
        if word_starts || *character == '.' {
            name.push('_');
        }
        if *character != '.' {
            name.push(character.to_ascii_uppercase());
        }
    }
    Some(name)
}

/// The candidate with the fewest edits from `word`, if they are few enough for a slip of the hand.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, best) = candidates.map(|candidate| (edits(word, candidate), candidate)).min()?;
    (distance <= (word.chars().count() / 2).max(2)).then_some(best)
}

/// Levenshtein's distance, ignoring case.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, left) in one.to_lowercase().chars().take(100).enumerate() {
        let mut next = vec![index + 1];
        for (right, pair) in other.iter().zip(row.windows(2)) {
            let (&[diagonal, above], Some(&behind)) = (pair, next.last()) else { continue };
            next.push((above + 1).min(behind + 1).min(diagonal + usize::from(left != *right)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn paths_and_environment_names_are_unique() {
        let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(paths.len(), KEYS.len());
        let names: Vec<_> = KEYS.iter().filter_map(|key| environment_name(key.path)).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(KEYS.iter().all(|key| key.kind.is_list() == matches!(key.default, Items(_))), "a list has a list as default");
    }

    #[test]
    fn names() {
        for (path, name) in [
            ("server.servingDNSNames", "MESHMINT_SERVER_SERVING_DNS_NAMES"),
            ("server.servingIPAddresses", "MESHMINT_SERVER_SERVING_IP_ADDRESSES"),
            ("clusterID", "MESHMINT_CLUSTER_ID"),
            ("server.listen", "MESHMINT_SERVER_LISTEN"),
        ] {
            assert_eq!(environment_name(path).as_deref(), Some(name));
        }
        assert_eq!(environment_name("tokens.issuers[].issuer"), None);
        assert_eq!(table_path("tokens.issuers[12].keys.file"), "tokens.issuers[].keys.file");
        assert_eq!(nearest("lisetn", ["listen", "log"].into_iter()), Some("listen"));
        assert_eq!(nearest("banana", ["listen", "log"].into_iter()), None);
    }
}
