//! What a plan goes by: plain facts about a mesh and whoever signs for it now, out of what was read of the cluster; and what could not be read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::super::istio::Version;
use crate::authority::AuthorityId;
use crate::cluster::{ApiError, ApiVersion, CaSecret, CertManagerIssuer, Injector, IstioCsr, IstiodTls, Program, Signing, Survey};
use crate::config::parse_duration;
use crate::pki::certificates_from_pem;
use crate::pki::inspect::printable_name;

/// How long certificates live where nobody says otherwise: what Istio's agents ask for, and istio-csr's limit.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const ISTIO_CSR_LIFETIME: Duration = Duration::from_secs(3600);

/// The facts.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    pub(super) kubernetes: String,
    pub(super) signer: Signer,
    /// The Secret with its key, where it was looked for and isn't there.
    pub(super) key_gone: Option<String>,
    pub(super) istiods: Vec<Istiod>,
    pub(super) ztunnels: Vec<Ztunnel>,
    /// Proxies of each namespace.
    pub(super) proxies: BTreeMap<String, usize>,
    pub(super) trust_domain: String,
    /// What agents call the cluster.
    pub(super) cluster: String,
    /// Who issues the cluster's tokens.
    pub(super) token_issuer: Option<String>,
    /// What agents ask tokens for.
    pub(super) audience: String,
    /// HOST:PORT that new pods ask; empty: istiod.
    pub(super) new_pods_ask: String,
    /// How long workloads' certificates live, in seconds.
    #[serde(serialize_with = "seconds")]
    pub(super) lifetime: Duration,
    /// Whether istiod pushes a changed bundle to sidecars at once.
    pub(super) pushes_roots: bool,
    /// The roots that workloads have now.
    pub(super) roots: Vec<Certificate>,
    pub(super) remote_clusters: Vec<String>,
    pub(super) unread: Vec<Unread>,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// Who signs, or would sign if it were turned on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(super) enum Signer {
    /// istiod.
    #[serde(rename_all = "camelCase")]
    Istiod {
        /// Whether its CA is on.
        on: bool,
        key: Key,
    },
    /// istio-csr.
    #[serde(rename_all = "camelCase")]
    IstioCsr {
        namespace: String,
        deployment: String,
        release: Option<String>,
        /// The version of its chart, which is that of its image.
        version: Option<String>,
        issuer: String,
        /// Where the issuer's key is, if that is in the cluster.
        key: Option<Key>,
    },
}

/// A CA's key: where it is, never what it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) secret: String,
    pub(super) form: Form,
    /// Its certificate; `None` where the Secret could not be read.
    pub(super) certificate: Option<Certificate>,
    /// The root that it leads to, by what is in the Secret and what workloads trust; `None` where that has none.
    pub(super) root: Option<Certificate>,
    /// The Certificate of cert-manager's that keeps the Secret.
    pub(super) cert_manager: Option<String>,
}

/// How the Secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Form {
    /// `ca-cert.pem` and `ca-key.pem`; the certificate is the root.
    SelfSigned,
    /// The same, under the name of a plugged-in one (`USE_CACERTS_FOR_SELF_SIGNED_CA`).
    Generated,
    /// Istio's four files.
    PlugIn,
    /// `tls.crt`, `tls.key`, `ca.crt`.
    Tls,
}

impl Form {
    /// The entry with the roots that istiod gives out.
    pub(super) fn roots(self) -> &'static str {
        if self == Self::Tls { "ca.crt" } else { "root-cert.pem" }
    }
}

/// A certificate of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    /// As `meshmint authority list` has it.
    pub(super) id: String,
    pub(super) subject: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) not_after: OffsetDateTime,
    pub(super) self_signed: bool,
    /// How many authorities may be below it.
    pub(super) path_length: Option<u32>,
}

/// One control plane.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Istiod {
    pub(super) namespace: String,
    pub(super) deployment: String,
    pub(super) revision: String,
    pub(super) version: Option<Version>,
    /// Its Helm release.
    pub(super) release: Option<String>,
    /// `PILOT_CERT_PROVIDER`.
    pub(super) cert_provider: String,
    /// Whose `istiod-tls` is, where there is one: `meshmint`, a Certificate of cert-manager's, or `unknown`.
    pub(super) istiod_tls: Option<String>,
}

/// One ztunnel.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ztunnel {
    pub(super) namespace: String,
    pub(super) daemon_set: String,
    pub(super) account: String,
    pub(super) version: Option<Version>,
    pub(super) release: Option<String>,
    pub(super) ca_address: String,
}

/// Something that could not be read, what the plan takes for it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Unread {
    pub(super) what: String,
    pub(super) why: String,
    pub(super) instead: String,
    /// A command that shows whether the permission is there.
    pub(super) fix: String,
}

/// The facts of what was read.
///
/// # Errors
/// In words, where there is nothing to plan for.
pub(super) fn facts(kubernetes: &ApiVersion, survey: &Survey, signing: &Signing) -> Result<Facts, String> {
    let found = survey.istiods.as_ref().map_err(|error| {
        format!(
            "istiod's Deployments can't be read ({error}); without them there is no plan. See `kubectl auth can-i list deployments --all-namespaces`"
        )
    })?;
    let Some(first) = found.first() else {
        return Err("there is no istiod in this cluster (no Deployment with label app=istiod)".to_owned());
    };
    if let Some(other) = found.iter().find(|istiod| istiod.namespace != first.namespace) {
        return Err(format!(
            "istiod is in several namespaces ({} and {}): these may be several meshes, and a plan is for one",
            first.namespace, other.namespace
        ));
    }
    let mut unread = Vec::new();
    let mut or_note = |what: &str, error: &ApiError, instead: &str, right: &str| {
        let fix = format!("kubectl auth can-i {right}");
        unread.push(Unread { what: what.to_owned(), why: error.to_string(), instead: instead.to_owned(), fix });
    };
    let ztunnels = survey.ztunnels.as_ref().unwrap_or_else(|error| {
        or_note("ztunnel's DaemonSets", error, "a mesh without ztunnel", "list daemonsets --all-namespaces");
        const { &Vec::new() }
    });
    let mut proxies = BTreeMap::new();
    match &survey.proxies {
        Ok(all) => all.iter().for_each(|proxy| *proxies.entry(proxy.namespace.clone()).or_default() += 1),
        Err(error) => or_note("pods with a proxy", error, "workloads in namespaces that you know", "list pods --all-namespaces"),
    }
    let injector = match &survey.injectors {
        Ok(injectors) => {
            let of_istiod = |injector: &&Injector| injector.name.split('/').next() == Some(&first.namespace);
            injectors.iter().find(of_istiod).cloned().unwrap_or_default()
        }
        Err(error) => {
            or_note("the sidecar injectors' values", error, "cluster name Kubernetes, audience istio-ca", "list configmaps --all-namespaces");
            Injector::default()
        }
    };
    let meshes = signing.meshes.as_ref().unwrap_or_else(|error| {
        or_note("the mesh's configuration (ConfigMap istio)", error, "trust domain cluster.local", "list configmaps --all-namespaces");
        const { &Vec::new() }
    });
    let token_issuer = signing.token_issuer.as_ref().map_err(|error| {
        or_note("the issuer of tokens", error, "a value to fill in", "get /.well-known/openid-configuration");
    });
    let remote_clusters = signing.remote_clusters.as_ref().unwrap_or_else(|error| {
        or_note("Secrets that name other clusters", error, "one cluster", &format!("list secrets --namespace {}", first.namespace));
        const { &Vec::new() }
    });
    let mut no_roots = |error: &ApiError| or_note("the roots that workloads have", error, "unknown roots", "list configmaps --all-namespaces");
    let of_istiod_roots = match &survey.namespaces {
        Ok(namespaces) => namespaces.iter().find(|each| each.name == first.namespace).and_then(|each| each.roots.as_deref()).unwrap_or_default(),
        Err(_) => "",
    };
    let roots = certificates(of_istiod_roots);
    match &survey.namespaces {
        Err(error) => no_roots(error),
        Ok(_) if roots.is_empty() => {
            no_roots(&ApiError::Status { code: 404, message: format!("no certificates in ConfigMap {}/istio-ca-root-cert", first.namespace) });
        }
        Ok(_) => {}
    }
    let istio_csr = signing.istio_csr.as_ref().unwrap_or_else(|error| {
        or_note("whether istio-csr runs", error, "a mesh without it", "list deployments --all-namespaces");
        &None
    });
    // One that nobody asks signs nothing. Where injectors could not be read nobody knows.
    let asked = || ztunnels.iter().filter_map(|ztunnel| ztunnel.env.get("CA_ADDRESS")).chain([&injector.ca_address]);
    let only_istiod = survey.injectors.is_ok() && asked().all(|address| address.is_empty() || address.starts_with("istiod"));
    let istio_csr = istio_csr.as_ref().filter(|_| !only_istiod);
    let mesh = meshes.first().cloned().unwrap_or_default();
    let trust_domain = Some(mesh.trust_domain).filter(|name| !name.is_empty()).unwrap_or_else(|| "cluster.local".to_owned());
    let asked_for = mesh.proxy_metadata.get("SECRET_TTL").and_then(|text| go_duration(text));
    let (signer, longest) = match istio_csr {
        Some(csr) => of_istio_csr(csr, of_istiod_roots, &mut or_note),
        None => (of_istiod(first, signing, of_istiod_roots, &mut or_note), LIFETIME.max(asked_for.unwrap_or_default())),
    };
    let key_gone = match istio_csr {
        Some(IstioCsr { issuer: Ok(CertManagerIssuer { kind, name, secret: Some(Err(ApiError::Status { code: 404, .. })) }), .. }) => {
            Some(format!("of {kind} {name}"))
        }
        Some(_) => None,
        None => {
            let found = signing.secrets.get(&first.namespace).and_then(|secrets| secrets.as_ref().ok());
            let gone = found.is_some_and(|secrets| secrets.iter().all(|secret| secret.certificate.is_none()));
            gone.then(|| format!("{0}/cacerts or {0}/istio-ca-secret", first.namespace))
        }
    };
    let on = |program: &Program, variable: &str| program.env.get(variable).is_some_and(|value| value == "true");
    let pushes_roots = found.iter().all(|istiod| on(istiod, "ISTIO_MULTIROOT_MESH"))
        && mesh.proxy_metadata.get("PROXY_CONFIG_XDS_AGENT").is_some_and(|value| value == "true");
    Ok(Facts {
        kubernetes: kubernetes.version.clone(),
        signer,
        key_gone,
        istiods: found.iter().map(|istiod| of_program(istiod, signing)).collect(),
        ztunnels: ztunnels.iter().map(of_ztunnel).collect(),
        proxies,
        new_pods_ask: injector.ca_address,
        trust_domain,
        cluster: Some(injector.cluster_name).filter(|name| !name.is_empty()).unwrap_or_else(|| "Kubernetes".to_owned()),
        token_issuer: token_issuer.ok().cloned(),
        audience: Some(injector.audience).filter(|name| !name.is_empty()).unwrap_or_else(|| "istio-ca".to_owned()),
        lifetime: asked_for.unwrap_or(LIFETIME).min(longest),
        pushes_roots,
        roots,
        remote_clusters: remote_clusters.clone(),
        unread,
    })
}

/// istiod's CA: what it looks for first is what it signs with.
fn of_istiod(istiod: &Program, signing: &Signing, trusted: &str, or_note: &mut impl FnMut(&str, &ApiError, &str, &str)) -> Signer {
    let on = istiod.env.get("ENABLE_CA_SERVER").is_none_or(|value| value != "false");
    let namespace = &istiod.namespace;
    let guess = || {
        // istiod's own root has one name in its subject: the trust domain as organisation.
        let own = certificates(trusted).first().is_none_or(|root| root.self_signed && root.subject.starts_with("O=") && !root.subject.contains(", "));
        let (secret, form) = if own { ("istio-ca-secret", Form::SelfSigned) } else { ("cacerts", Form::PlugIn) };
        Key { namespace: namespace.clone(), secret: secret.to_owned(), form, certificate: None, root: None, cert_manager: None }
    };
    let key = match signing.secrets.get(namespace) {
        Some(Ok(secrets)) => secrets.iter().find(|secret| secret.certificate.is_some()).map_or_else(guess, |secret| key_of(secret, trusted)),
        Some(Err(error)) => {
            let key = guess();
            let what = format!("the Secrets with istiod's CA in {namespace}");
            let instead = format!("Secret {}, by the look of the root in the ConfigMaps", key.secret);
            or_note(&what, error, &instead, &format!("get secrets --namespace {namespace}"));
            key
        }
        None => guess(),
    };
    Signer::Istiod { on, key }
}

/// `trusted` is what workloads trust, PEM.
fn key_of(secret: &CaSecret, trusted: &str) -> Key {
    let own = certificates_from_pem(secret.certificate.as_deref().unwrap_or_default()).unwrap_or_default();
    let beside = [Some(trusted), secret.certificate.as_deref(), secret.chain.as_deref(), secret.roots.as_deref()];
    let beside: Vec<_> = beside.into_iter().flatten().flat_map(|pem| certificates_from_pem(pem).unwrap_or_default()).collect();
    let certificate = own.first().and_then(|der| certificate(der));
    let root = own.first().and_then(|der| root_of(der, &beside));
    let form = match secret {
        CaSecret { is_tls: true, .. } => Form::Tls,
        CaSecret { is_generated: true, .. } => Form::Generated,
        CaSecret { name, .. } if name == "istio-ca-secret" => Form::SelfSigned,
        _ => Form::PlugIn,
    };
    Key { namespace: secret.namespace.clone(), secret: secret.name.clone(), form, certificate, root, cert_manager: secret.cert_manager.clone() }
}

fn of_istio_csr(csr: &IstioCsr, trusted: &str, or_note: &mut impl FnMut(&str, &ApiError, &str, &str)) -> (Signer, Duration) {
    let (mut issuer, mut key) = ("an issuer of cert-manager's".to_owned(), None);
    match &csr.issuer {
        Ok(CertManagerIssuer { kind, name, secret }) => {
            issuer = format!("{kind} {name}");
            match secret {
                Some(Ok(secret)) => key = Some(key_of(secret, trusted)),
                Some(Err(error)) => or_note("the Secret of istio-csr's issuer", error, "a new root", "get secrets --all-namespaces"),
                None => {}
            }
        }
        Err(error) => or_note("istio-csr's issuer", error, "a new root", "get issuers.cert-manager.io --all-namespaces"),
    }
    let longest = csr.flags.get("max-client-certificate-duration").and_then(|text| go_duration(text)).unwrap_or(ISTIO_CSR_LIFETIME);
    let signer = Signer::IstioCsr {
        namespace: csr.namespace.clone(),
        deployment: csr.name.clone(),
        release: csr.release.clone(),
        version: csr.tag.clone(),
        issuer,
        key,
    };
    (signer, longest)
}

/// `1h`, or as Go prints it: `1h0m0s`.
fn go_duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok().or_else(|| parse_duration(text.strip_suffix("0m0s")?).ok())
}

fn of_program(istiod: &Program, signing: &Signing) -> Istiod {
    let env = |name: &str| istiod.env.get(name).map(String::as_str);
    let istiod_tls = signing.istiod_tls.get(&istiod.namespace).and_then(|found| found.as_ref().ok()?.as_ref());
    Istiod {
        namespace: istiod.namespace.clone(),
        deployment: istiod.object.clone(),
        revision: istiod.revision.clone().unwrap_or_else(|| "default".to_owned()),
        version: istiod.tag.as_deref().and_then(Version::of),
        release: istiod.release.clone(),
        cert_provider: env("PILOT_CERT_PROVIDER").unwrap_or("istiod").to_owned(),
        istiod_tls: istiod_tls.map(|tls| match tls {
            IstiodTls::Ours => "meshmint".to_owned(),
            IstiodTls::CertManager(certificate) => certificate.clone(),
            IstiodTls::Unknown => "unknown".to_owned(),
        }),
    }
}

fn of_ztunnel(ztunnel: &Program) -> Ztunnel {
    Ztunnel {
        namespace: ztunnel.namespace.clone(),
        daemon_set: ztunnel.object.clone(),
        account: if ztunnel.account.is_empty() { "default".to_owned() } else { ztunnel.account.clone() },
        version: ztunnel.tag.as_deref().and_then(Version::of),
        release: ztunnel.release.clone(),
        ca_address: ztunnel.env.get("CA_ADDRESS").cloned().unwrap_or_default(),
    }
}

/// The certificates of a PEM text that can be read.
pub(super) fn certificates(pem: &str) -> Vec<Certificate> {
    let ders = certificates_from_pem(pem).unwrap_or_default();
    ders.iter().filter_map(|der| certificate(der)).collect()
}

/// The self-signed certificate that this one leads to, signature by signature, over those beside it.
fn root_of(der: &[u8], beside: &[impl AsRef<[u8]>]) -> Option<Certificate> {
    let mut der = der;
    // No path is longer than there are certificates, so one that goes round ends, too.
    for _ in 0..=beside.len() {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        if let Some(root) = certificate(der).filter(|certificate| certificate.self_signed) {
            return Some(root);
        }
        let signs = |der: &&[u8]| {
            let Ok((_, above)) = X509Certificate::from_der(der) else { return false };
            above.subject().as_raw() == read.issuer().as_raw() && read.verify_signature(Some(above.public_key())).is_ok()
        };
        der = beside.iter().map(AsRef::as_ref).find(signs)?;
    }
    None
}

fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, read) = X509Certificate::from_der(der).ok()?;
    Some(Certificate {
        id: AuthorityId::of_certificate(der).as_str().to_owned(),
        subject: printable_name(read.subject()),
        not_after: read.validity().not_after.to_datetime(),
        self_signed: read.issuer().as_raw() == read.subject().as_raw() && read.verify_signature(None).is_ok(),
        path_length: read.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint),
    })
}
