//! A Secret of one name that is ours to keep, as a watch shows it: who made it, whether what is in it is what was written, and whether whoever wrote
//! it knew more than we do. Nothing secret is kept: of a key only whether it fits.

use std::fmt::{self, Debug};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::authority::GenerationNumber;
use crate::cluster::{Index, Metadata, Resource};

/// What is in such a Secret.
pub(super) trait Contents: Debug + Sized + Send + Sync + 'static {
    /// Its `data` as it comes.
    type Data: DeserializeOwned + Debug + Clone + Default + Send + 'static;

    /// Reads it; `None` where it is nothing that istiod could use.
    fn read(data: Self::Data) -> Option<Self>;
    /// The certificate that all of it is about, DER.
    fn certificate(&self) -> &[u8];
}

/// What is known of it.
#[derive(Debug)]
struct Known<C> {
    version: Box<str>,
    /// None: not ours.
    marks: Option<Marks>,
    /// None: nothing that could be used.
    contents: Option<C>,
}

/// What we wrote beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marks {
    number: u64,
    generation: u64,
    /// SHA-256 of the certificate, lower-hex.
    certificate: Option<String>,
}

/// The annotations of a Secret with this certificate, written by whoever knows this bundle and this generation.
pub(super) fn annotations(number: u64, generation: GenerationNumber, certificate: &[u8]) -> Value {
    json!({
        "meshmint.io/bundle-number": number.to_string(),
        "meshmint.io/generation": generation.0.to_string(),
        "meshmint.io/certificate-sha256": sha256(certificate),
    })
}

fn sha256(der: &[u8]) -> String {
    hex::encode(digest(&SHA256, der))
}

/// A text as `data` has it.
pub(super) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

/// The Secret, if it is there.
#[derive(Debug)]
pub(super) struct OwnSecret<C> {
    known: Option<Known<C>>,
    /// How often it went away.
    removals: u64,
}

/// What it asks for; `S` is what of it may stay when it is written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need<S> {
    /// Nothing until then; without a time nobody could give the certificate a later end.
    Nothing { renew_at: Option<OffsetDateTime> },
    /// Nothing from us: somebody else made it.
    Foreign,
    /// Nothing from us: whoever wrote it knows a newer bundle or a newer generation.
    LeftAlone,
    /// What can't be done here, for this reason.
    Unable(&'static str),
    /// A new certificate with a new key, for this reason.
    Issue(&'static str),
    /// The same certificate with something else beside it, for this reason.
    Write(&'static str, S),
}

/// How it stands, to somebody who knows a bundle and a generation.
#[derive(Debug)]
pub(super) enum Standing<'a, C> {
    /// There is none.
    Missing,
    /// Somebody else made it.
    Foreign,
    /// Whoever wrote it knows a newer bundle or a newer generation.
    Newer,
    /// What is in it isn't what was written.
    Spoilt,
    /// As it was written.
    Written {
        /// The number of the bundle that was written.
        number: u64,
        /// The generation that was written.
        generation: u64,
        contents: &'a C,
    },
}

impl<C: Contents> OwnSecret<C> {
    /// How it stands to somebody who knows the bundle of this number, and this generation.
    pub(super) fn standing(&self, number: u64, generation: GenerationNumber) -> Standing<'_, C> {
        let Some(known) = &self.known else { return Standing::Missing };
        let Some(marks) = &known.marks else { return Standing::Foreign };
        if marks.number > number || marks.generation > generation.0 {
            return Standing::Newer;
        }
        let written = known.contents.as_ref().filter(|contents| marks.certificate == Some(sha256(contents.certificate())));
        let Some(contents) = written else { return Standing::Spoilt };
        Standing::Written { number: marks.number, generation: marks.generation, contents }
    }

    /// What is in it, whoever made it.
    pub(super) fn contents(&self) -> Option<&C> {
        self.known.as_ref()?.contents.as_ref()
    }

    /// The version that is known, if it is there.
    pub(super) fn version(&self) -> Option<Box<str>> {
        self.known.as_ref().map(|known| known.version.clone())
    }

    /// What the watch shows of it, as one word that changes with it.
    pub(super) fn shows(&self) -> String {
        self.known.as_ref().map_or_else(|| format!("nothing after {}", self.removals), |known| known.version.to_string())
    }
}

impl<C> Default for OwnSecret<C> {
    fn default() -> Self {
        Self { known: None, removals: 0 }
    }
}

/// A Secret as it comes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SecretObject<D> {
    metadata: Metadata,
    #[serde(default)]
    data: Option<D>,
}

/// Base64, as the API has it. It never shows itself.
#[derive(Clone, Deserialize)]
pub(super) struct Encoded(String);

impl Encoded {
    pub(super) fn text(self) -> Option<String> {
        String::from_utf8(STANDARD.decode(self.0).ok()?).ok()
    }
}

impl Debug for Encoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Encoded({} bytes)", self.0.len())
    }
}

impl<C: Contents> Index for OwnSecret<C> {
    type Object = SecretObject<C::Data>;
    const RESOURCE: Resource = Resource::Secrets;

    fn metadata(object: &Self::Object) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, SecretObject { metadata, data }: Self::Object) {
        // Without the annotation somebody else made it. One that was spoilt is ours still, and older than anything.
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let annotations = metadata.annotations;
        let marks = annotations.bundle_number.is_some().then(|| Marks {
            number: number(annotations.bundle_number),
            generation: number(annotations.generation),
            certificate: annotations.certificate,
        });
        self.known = Some(Known { version: metadata.resource_version.into(), marks, contents: data.and_then(C::read) });
    }

    fn remove(&mut self, _namespace: &str, _name: &str) {
        self.removals += u64::from(self.known.take().is_some());
    }

    fn len(&self) -> usize {
        usize::from(self.known.is_some())
    }
}
