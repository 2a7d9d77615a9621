//! The token of a request's headers, for every door: `authorization: Bearer TOKEN` (RFC 6750 §2.1). What a token may look like is each door's to say.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// There is something in the place of a token that can't be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unusable {
    /// In a word for metrics.
    pub(super) reason: &'static str,
}

/// What stands in the place of a token; `None` where nothing does. Something else in its place is never "no token": a door with other proofs would fall
/// back to a weaker one. One space is one space: what is after it belongs to the token.
///
/// # Errors
/// [`Unusable`] where it can't be a token, or there are several: two readers of one request must never see two callers.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Unusable> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Unusable { reason: "several_authorization_headers" }),
        (Some(value), None) => match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token)),
            _ => Err(Unusable { reason: "not_a_bearer_token" }),
        },
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn it_is_one_header_of_one_scheme() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            }
            bearer(&headers).map(|token| token.map(str::to_owned)).map_err(|unusable| unusable.reason)
        };
        let token = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"Bearer a.b.c"]), token("a.b.c"));
        assert_eq!(read(&[b"bEARER a.b.c"]), token("a.b.c"));
        assert_eq!(read(&[b"Bearer "]), token(""));
        assert_eq!(read(&[b"Bearer  a.b.c"]), token(" a.b.c"));
        for bad in [&b""[..], b"Bearer", b"a.b.c", b"Basic a.b.c", b"Bearer\ta.b.c", b"Bearer \xff\xfe"] {
            assert_eq!(read(&[bad]), Err("not_a_bearer_token"), "{bad:?}");
        }
        assert_eq!(read(&[b"Bearer a.b.c", b"Bearer a.b.c"]), Err("several_authorization_headers"));
        assert_eq!(read(&[b"Bearer a.b.c", b""]), Err("several_authorization_headers"));
    }
}
