//! JSON read strictly: a member that occurs twice is refused at any depth, so that no two readers can see two different documents
//! (RFC 7515 §4, RFC 7519 §4, RFC 7517 §4 leave the choice between that and "the last one wins").
//!
//! The tree borrows from the bytes that it was read from: a token is read for each certificate, and most of it is never looked at again.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// The bytes are not one JSON object in which every member occurs once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object, or one of its members occurs twice")]
pub struct NotStrictJson;

/// A JSON value in which no object has a member twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text; borrowed unless it was written with escapes.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Json<'a>>),
    /// An object.
    Object(Members<'a>),
}

/// The members of an object, in the order of the document; each name is there once.
#[derive(Debug, Clone, PartialEq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// Reads `bytes` as one JSON object. The depth is bounded by serde_json (128), the size is for the caller to bound.
///
/// # Errors
/// [`NotStrictJson`].
pub fn strict_object(bytes: &[u8]) -> Result<Members<'_>, NotStrictJson> {
    // Checked as a whole, which is faster than each text by itself.
    let text = std::str::from_utf8(bytes).map_err(|_| NotStrictJson)?;
    match serde_json::from_str(text) {
        Ok(Json::Object(members)) => Ok(members),
        _ => Err(NotStrictJson),
    }
}

impl<'a> Members<'a> {
    /// Up to this many names are compared pair by pair, which needs no memory; more are sorted, so that a document made of many small members
    /// doesn't cost its square.
    const FEW: usize = 16;

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.iter().find(|(member, _)| *member == name).map(|(_, value)| value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    fn has_repeats(&self) -> bool {
        if self.0.len() <= Self::FEW {
            return self.iter().enumerate().any(|(number, (name, _))| self.iter().take(number).any(|(other, _)| other == name));
        }
        let mut names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| matches!(pair, [one, next] if one == next))
    }
}

impl<'a> Json<'a> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if it is a whole one from 0 to 2⁶⁴ − 1, written without fraction and exponent.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { number.as_u64() } else { None }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Json<'a>]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&Members<'a>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }
}

impl<'a> Deserialize<'a> for Json<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'a> Visitor<'a> for JsonVisitor {
    type Value = Json<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without repeated members")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'a>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'a>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'a>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'a>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'a>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'a str) -> Result<Json<'a>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'a>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut sequence: A) -> Result<Json<'a>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Json<'a>, A::Error> {
        let mut members = Members(Vec::new());
        while let Some((Name(name), value)) = map.next_entry()? {
            members.0.push((name, value));
        }
        if members.has_repeats() { Err(A::Error::custom("a member occurs twice")) } else { Ok(Json::Object(members)) }
    }
}

/// The name of a member. (serde reads a `Cow` by itself as an owned text.)
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn plain(json: &Json<'_>) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(number) => number.clone().into(),
            Json::Text(text) => text.as_ref().into(),
            Json::List(items) => items.iter().map(plain).collect(),
            Json::Object(members) => members.iter().map(|(name, value)| (name, plain(value))).collect(),
        }
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,1.5,"x\n",null,true,{"a":{}}],"b":18446744073709551615,"\u0063":"ü","":1e300}"#;
        let members = strict_object(text.as_bytes()).unwrap();
        assert_eq!(members.get("c").and_then(Json::as_str), Some("ü"));
        assert_eq!(plain(&Json::Object(members)), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn copies_only_what_has_escapes() {
        let members = strict_object(br#"{"a":"plain","b":"esc\u0061ped"}"#).unwrap();
        let borrowed = members.0.iter().map(|(name, value)| {
            let Json::Text(text) = value else { panic!("{value:?}") };
            (matches!(name, Cow::Borrowed(_)), matches!(text, Cow::Borrowed(_)))
        });
        assert_eq!(borrowed.collect::<Vec<_>>(), [(true, true), (true, false)]);
    }

    #[test]
    fn gives_out_what_is_of_the_type() {
        let members = strict_object(br#"{"t":"x","n":7,"f":7.0,"m":-7,"l":[7],"o":{"t":0}}"#).unwrap();
        let types = |name| {
            let value = members.get(name).unwrap();
            (value.as_str(), value.as_u64(), value.as_list().map(<[_]>::len), value.as_object().is_some())
        };
        assert_eq!(types("t"), (Some("x"), None, None, false));
        assert_eq!(types("n"), (None, Some(7), None, false));
        assert_eq!(types("f"), (None, None, None, false));
        assert_eq!(types("m"), (None, None, None, false));
        assert_eq!(types("l"), (None, None, Some(1), false));
        assert_eq!(types("o"), (None, None, None, true));
        assert_eq!(members.get("x"), None);
        assert_eq!(members.iter().map(|(name, _)| name).collect::<String>(), "tnfmlo");
    }

    #[test]
    fn refuses_repeats_at_any_depth_and_everything_that_is_no_object() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"[{"a":1,"\u0061":2}]"#,
            r#"{"x":[{"a":1,"\u0061":2}]}"#,
            "[]",
            "1",
            "",
            "{} {}",
            "{",
            "{\"a\":\"\u{1}\"}",
        ] {
            assert_eq!(strict_object(text.as_bytes()), Err(NotStrictJson), "{text}");
        }
        assert_eq!(strict_object(b"{\"a\":\"\xff\"}"), Err(NotStrictJson));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(4000), "]".repeat(4000));
        assert_eq!(strict_object(deep.as_bytes()), Err(NotStrictJson));
    }

    #[test]
    fn finds_one_repeat_among_few_and_among_many() {
        for count in [2, Members::FEW, Members::FEW + 1, 3000] {
            let object = |last: usize| {
                let members: Vec<String> = (1..count).chain([last]).map(|number| format!("\"{number}\":0")).collect();
                format!("{{{}}}", members.join(","))
            };
            assert_eq!(strict_object(object(count).as_bytes()).unwrap().iter().count(), count);
            for twice in [1, count / 2, count - 1] {
                assert_eq!(strict_object(object(twice).as_bytes()), Err(NotStrictJson), "{twice} of {count}");
            }
        }
    }
}
