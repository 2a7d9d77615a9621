//! The tokens of a load: read from files, or minted by the issuer of a running `meshmint dev`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::super::csr_client::{KeyType, make_key};
use super::super::dev_issuer::{DevIssuer, DevIssuerError, TokenRequest};
use super::super::files::write_whole;
use crate::clock::{Clock, Entropy};

/// How minted tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TokenSignature {
    /// RSA, as Kubernetes signs unless told otherwise
    Rs256,
    /// ECDSA P-256
    Es256,
}

/// Which tokens to mint: pods of service accounts that are numbered from `first_account` on, in four namespaces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Population {
    pub(super) first_account: usize,
    pub(super) accounts: usize,
    pub(super) pods: usize,
    pub(super) ttl: Duration,
    pub(super) signature: TokenSignature,
}

/// Namespaces that the accounts are spread over.
const NAMESPACES: usize = 4;
/// Nodes that the pods are spread over.
const NODES: usize = 10;

/// Reads token files; of a folder, every file in it.
///
/// # Errors
/// In words.
pub(super) fn from_files(paths: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    for path in paths {
        let failed = |error: std::io::Error| format!("can't read {}: {error}", path.display());
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
            files = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            files.sort();
        }
        for file in files {
            let token = std::fs::read_to_string(&file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
            tokens.push(token.trim().to_owned());
        }
    }
    if tokens.iter().any(String::is_empty) || tokens.is_empty() && !paths.is_empty() {
        return Err("there is no token in the files of --token-file, or one of them is empty".to_owned());
    }
    Ok(tokens)
}

/// Mints tokens with the issuer of `dir`, each bound to a pod of its own. For RS256 the issuer gets a second key at the first time, which a
/// running server learns of when it meets the first token.
///
/// # Errors
/// In words.
pub(super) fn from_dev(dir: &Path, population: &Population, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Vec<String>, String> {
    let words = |error: DevIssuerError| error.to_string();
    let issuer = match population.signature {
        TokenSignature::Es256 => DevIssuer::open(dir).map_err(words)?,
        TokenSignature::Rs256 => {
            let issuer = DevIssuer::open_with_rs256(dir, || make_key(KeyType::Rsa2048).map_err(|error| error.to_string())).map_err(words)?;
            write_whole(&dir.join("jwks.json"), issuer.jwks().to_string().as_bytes(), 0o644).map_err(|error| format!("jwks.json: {error}"))?;
            issuer
        }
    };
    let audiences = ["istio-ca".to_owned()];
    let mut tokens = Vec::with_capacity(population.accounts.saturating_mul(population.pods));
    for account in population.first_account..population.first_account.saturating_add(population.accounts) {
        let (namespace, name) = (format!("bench-{}", account % NAMESPACES), format!("account-{account}"));
        for pod in 1..=population.pods {
            let (pod, node) = (format!("{name}-{pod}"), format!("node-{}", (account + pod) % NODES));
            let request = TokenRequest {
                namespace: &namespace,
                service_account: &name,
                pod: Some(&pod),
                pod_uid: None,
                node: Some(&node),
                audiences: &audiences,
                ttl: population.ttl,
            };
            let minted = match population.signature {
                TokenSignature::Es256 => issuer.mint(&request, clock.now(), entropy),
                TokenSignature::Rs256 => issuer.mint_rs256(&request, clock.now(), entropy),
            };
            tokens.push(minted.map_err(words)?);
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::callers::{KeySet, UnverifiedToken};
    use crate::clock::{SystemClock, SystemEntropy};

    #[test]
    fn a_folder_is_a_file_for_each_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("b", "second\n");
        file("a", " first ");
        let single = folder.path().join("a");
        assert_eq!(from_files(&[folder.path().to_owned(), single]).unwrap(), ["first", "second", "first"]);
        assert_eq!(from_files(&[]).unwrap(), Vec::<String>::new());
        file("c", "\n");
        assert!(from_files(&[folder.path().to_owned()]).unwrap_err().contains("empty"));
        assert!(from_files(&[folder.path().join("none")]).unwrap_err().contains("none"));
    }

    #[test]
    fn every_pod_has_a_token_that_the_issuers_keys_verify() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy) = (SystemClock::shared(), SystemEntropy::shared());
        let of = |first_account, signature| {
            let population = Population { first_account, accounts: 3, pods: 2, ttl: Duration::from_secs(600), signature };
            from_dev(dir.path(), &population, clock.as_ref(), entropy.as_ref())
        };
        assert!(of(1, TokenSignature::Es256).unwrap_err().contains("meshmint dev"));
        DevIssuer::open_or_create(dir.path()).unwrap();
        let mut subjects = BTreeSet::new();
        for (first_account, signature) in [(1, TokenSignature::Es256), (4, TokenSignature::Rs256)] {
            let tokens = of(first_account, signature).unwrap();
            assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), 6);
            let jwks = DevIssuer::open(dir.path()).unwrap().jwks().to_string();
            let keys = KeySet::from_jwks(jwks.as_bytes()).unwrap();
            for token in tokens {
                let token = UnverifiedToken::parse(&token).unwrap();
                let key = keys.key(token.kid()).unwrap();
                let verified = token.verify(key).unwrap();
                subjects.insert(verified.claims().subject.clone());
            }
        }
        assert_eq!(subjects.len(), 6);
        // The second key stays, and is published.
        let published = std::fs::read_to_string(dir.path().join("jwks.json")).unwrap();
        of(1, TokenSignature::Rs256).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("jwks.json")).unwrap(), published);
    }
}
