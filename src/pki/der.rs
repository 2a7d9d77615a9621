//! Writing DER (X.690 §8, §10): tags, lengths, nesting. What is written with it is in [`super::tbs`], the wrapping of a signature in
//! [`super::prepare`]. Reading is left to x509-parser.

/// Universal tags (X.680 §8.4), sequences and sets with the bit of a constructed encoding.
pub(super) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[number]` in place of a primitive type's own tag.
    pub(crate) const fn implicit(number: u8) -> u8 {
        0x80 | number
    }

    /// `[number]` around a value.
    pub(crate) const fn explicit(number: u8) -> u8 {
        0xa0 | number
    }
}

/// DER that grows.
pub(super) struct Der(Vec<u8>);

impl Der {
    /// Nothing yet, with room for `bytes`.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes as they are: a value that is DER already, or content.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A value of known content.
    pub(super) fn value(&mut self, tag: u8, content: &[u8]) {
        self.nested(tag, |value| value.raw(content));
    }

    pub(super) fn sequence(&mut self, content: impl FnOnce(&mut Self)) {
        self.nested(tag::SEQUENCE, content);
    }

    /// Whole octets as a BIT STRING: no bit of the last one is unused.
    pub(super) fn bit_string(&mut self, octets: &[u8]) {
        self.nested(tag::BIT_STRING, |value| {
            value.raw(&[0]);
            value.raw(octets);
        });
    }

    /// A value of which `content` writes the content. Its length is put before it afterwards, in the shortest form (X.690 §10.1).
    pub(super) fn nested(&mut self, tag: u8, content: impl FnOnce(&mut Self)) {
        self.0.push(tag);
        let start = self.0.len();
        content(self);
        let length = self.0.len() - start;
        match u8::try_from(length) {
            Ok(short @ ..0x80) => self.0.insert(start, short),
            Ok(octet) => drop(self.0.splice(start..start, [0x81, octet])),
            Err(_) => {
                let octets = length.to_be_bytes();
                let zeros = octets.iter().take_while(|octet| **octet == 0).count();
                // At most eight octets, so the number of them fits beside the bit that says so.
                let form = 0x80 | u8::try_from(octets.len() - zeros).unwrap_or(8);
                drop(self.0.splice(start..start, [form].into_iter().chain(octets.into_iter().skip(zeros))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_another_encoder_writes() {
        for length in [0, 1, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff, 0x100, 0x101, 0xffff, 0x1_0000] {
            let content = vec![0x55; length];
            let mut der = Der::with_capacity(0);
            der.sequence(|outer| {
                outer.value(tag::OCTET_STRING, &content);
                outer.nested(tag::explicit(3), |inner| inner.bit_string(&content));
                outer.nested(tag::SET, |_| {});
            });
            let expected = yasna::construct_der(|writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_bytes(&content);
                    writer.next().write_tagged(yasna::Tag::context(3), |writer| writer.write_bitvec_bytes(&content, length * 8));
                    writer.next().write_set(|_| {});
                });
            });
            assert_eq!(der.into_bytes(), expected, "{length}");
        }
    }
}
