//! The claims of a Kubernetes service-account token, by type. What they must say is for [`super::TokenRules`].

use time::OffsetDateTime;

use super::strict_json::{Json, Members};
use super::token::{ObjectRef, TokenError};

/// The claims that matter here, each of the right type. Claims that aren't named are ignored (RFC 7519 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`: one text or a list; not empty.
    pub audiences: Vec<String>,
    /// `exp`.
    pub expires_at: OffsetDateTime,
    /// `iat`, which Kubernetes always writes.
    pub issued_at: OffsetDateTime,
    /// `nbf`.
    pub not_before: Option<OffsetDateTime>,
    /// `jti`.
    pub id: Option<String>,
    /// `kubernetes.io`/`namespace`.
    pub namespace: String,
    /// `kubernetes.io`/`serviceaccount`.
    pub service_account: ObjectRef,
    /// `kubernetes.io`/`pod`.
    pub pod: Option<ObjectRef>,
    /// `kubernetes.io`/`node`.
    pub node: Option<ObjectRef>,
    /// `kubernetes.io`/`secret`.
    pub secret: Option<ObjectRef>,
    /// `kubernetes.io`/`warnafter`.
    pub warn_after: Option<OffsetDateTime>,
    /// Whether `kubernetes.io` names another object by its UID: a binding that nobody here could check.
    pub bound_to_other: bool,
}

/// The members of `kubernetes.io` that are known here.
const KNOWN: [&str; 6] = ["namespace", "serviceaccount", "pod", "node", "secret", "warnafter"];

impl Claims {
    /// # Errors
    /// [`TokenError::BadClaims`] with the claim's name.
    pub(super) fn read(payload: &Members<'_>) -> Result<Self, TokenError> {
        let private = payload.get("kubernetes.io").and_then(Json::as_object).ok_or(TokenError::BadClaims("kubernetes.io"))?;
        let audiences = match payload.get("aud") {
            Some(Json::Text(one)) => vec![one.as_ref().to_owned()],
            Some(Json::List(list)) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().unwrap_or_default(),
            _ => Vec::new(),
        };
        let pod = object(private, "pod")?;
        if audiences.is_empty() {
            return Err(TokenError::BadClaims("aud"));
        }
        Ok(Self {
            issuer: text(payload, "iss")?,
            subject: text(payload, "sub")?,
            audiences,
            expires_at: date(payload, "exp")?.ok_or(TokenError::BadClaims("exp"))?,
            issued_at: date(payload, "iat")?.ok_or(TokenError::BadClaims("iat"))?,
            not_before: date(payload, "nbf")?,
            id: payload.get("jti").map(|_| text(payload, "jti")).transpose()?,
            namespace: text(private, "namespace")?,
            service_account: object(private, "serviceaccount")?.ok_or(TokenError::BadClaims("serviceaccount"))?,
            node: if pod.is_some() && is_name_alone(private.get("node")) { None } else { object(private, "node")? },
            pod,
            secret: object(private, "secret")?,
            warn_after: date(private, "warnafter")?,
            bound_to_other: private
                .iter()
                .any(|(name, value)| !KNOWN.contains(&name) && value.as_object().is_some_and(|object| object.get("uid").is_some())),
        })
    }
}

/// The API server writes no UID for the node of a pod where there is no such node (yet): a hint for people, and no object.
fn is_name_alone(node: Option<&Json<'_>>) -> bool {
    node.and_then(Json::as_object).is_some_and(|node| node.get("name").and_then(Json::as_str).is_some() && node.get("uid").is_none())
}

/// A NumericDate (RFC 7519 §2) from 1970 to 9999. Kubernetes writes whole seconds, so fractions are no claim of its.
pub(super) fn numeric_date(value: &Json<'_>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(value.as_u64()?).ok()?).ok()
}

fn date(members: &Members<'_>, name: &'static str) -> Result<Option<OffsetDateTime>, TokenError> {
    members.get(name).map(|value| numeric_date(value).ok_or(TokenError::BadClaims(name))).transpose()
}

fn text(members: &Members<'_>, name: &'static str) -> Result<String, TokenError> {
    members.get(name).and_then(Json::as_str).map(str::to_owned).ok_or(TokenError::BadClaims(name))
}

fn object(members: &Members<'_>, name: &'static str) -> Result<Option<ObjectRef>, TokenError> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let object = value.as_object().ok_or(TokenError::BadClaims(name))?;
    let part = |part| object.get(part).and_then(Json::as_str).map(str::to_owned).ok_or(TokenError::BadClaims(name));
    Ok(Some(ObjectRef { name: part("name")?, uid: part("uid")? }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::callers::strict_object;

    fn good() -> Value {
        json!({
            "iss": "https://issuer", "sub": "system:serviceaccount:ns:sa", "aud": ["a", "b"], "exp": 2000, "iat": 1000, "nbf": 1000, "jti": "id",
            "kubernetes.io": {
                "namespace": "ns", "serviceaccount": {"name": "sa", "uid": "u1"}, "pod": {"name": "p", "uid": "u2"},
                "node": {"name": "n", "uid": "u3"}, "warnafter": 1500,
            },
            "somebody-else's": {"exp": []},
        })
    }

    fn read(value: &Value) -> Result<Claims, TokenError> {
        Claims::read(&strict_object(value.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn reads_what_kubernetes_writes() {
        let claims = read(&good()).unwrap();
        assert_eq!(claims.audiences, ["a", "b"]);
        assert_eq!(claims.pod, Some(ObjectRef { name: "p".into(), uid: "u2".into() }));
        assert_eq!(claims.warn_after, OffsetDateTime::from_unix_timestamp(1500).ok());
        let mut bare = good();
        for name in ["nbf", "jti"] {
            bare.as_object_mut().unwrap().remove(name);
        }
        bare["aud"] = json!("one");
        bare["kubernetes.io"] = json!({"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "u1"}});
        let claims = read(&bare).unwrap();
        assert_eq!((claims.pod, claims.node, claims.not_before, claims.id), (None, None, None, None));
        assert_eq!(claims.audiences, ["one"]);
    }

    #[test]
    fn the_node_of_a_pod_may_be_a_name_alone() {
        let mut claims = good();
        claims["kubernetes.io"]["node"] = json!({"name": "n"});
        assert_eq!(read(&claims).unwrap().node, None);
        claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
        assert_eq!(read(&claims), Err(TokenError::BadClaims("node")), "it is all that the token is bound to");
    }

    #[test]
    fn an_object_of_a_kind_that_nobody_knows_is_noticed() {
        assert!(!read(&good()).unwrap().bound_to_other);
        let mut other = good();
        other["kubernetes.io"]["attestations"] = json!({"authentication.k8s.io/x": ["y"]});
        assert!(!read(&other).unwrap().bound_to_other, "no object");
        other["kubernetes.io"]["validatingwebhookconfiguration"] = json!({"name": "w", "uid": "u"});
        assert!(read(&other).unwrap().bound_to_other);
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_refused_by_name() {
        let wrong = [json!(null), json!(true), json!(1.5), json!(-1), json!([]), json!({}), json!([1]), json!(253_402_300_800_u64), json!(1e300)];
        for name in ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "kubernetes.io"] {
            for value in &wrong {
                let mut claims = good();
                claims[name] = value.clone();
                // An empty `kubernetes.io` is of the right type; what it lacks is named.
                let named = if name == "kubernetes.io" && value.is_object() { "namespace" } else { name };
                assert_eq!(read(&claims), Err(TokenError::BadClaims(named)), "{name}: {value}");
            }
        }
        for name in ["namespace", "serviceaccount", "pod", "node", "secret", "warnafter"] {
            for value in &wrong {
                let mut claims = good();
                claims["kubernetes.io"][name] = value.clone();
                assert_eq!(read(&claims), Err(TokenError::BadClaims(name)), "{name}: {value}");
            }
        }
        for name in ["iss", "sub", "aud", "exp", "iat", "kubernetes.io"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(read(&claims), Err(TokenError::BadClaims(name)), "{name}");
        }
    }
}
