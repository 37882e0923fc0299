//! The short way to canonical bytes (RFC 8785): straight from a value into sorted text, without a tree in between.
//!
//! It takes whole numbers that a double keeps exactly, and keys of plain ASCII, which is nearly all that is ever hashed or
//! recorded here. Anything else is [`Long`] and goes the long way, which must give the same bytes.

use std::io::Write as _;

use serde::Serialize;
use serde::ser::{
    Error, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// From here on a double does not keep every whole number.
const EXACT: u64 = 1 << 53;
/// Bytes that most records have.
const ROOM: usize = 1 << 10;

/// The value needs the long way.
#[derive(Debug)]
pub(super) struct Long;

impl std::fmt::Display for Long {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no short way to canonical bytes")
    }
}

impl std::error::Error for Long {}

impl Error for Long {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

/// The canonical text of `value`, when the short way leads there.
pub(super) fn short<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    let mut out = Vec::with_capacity(ROOM);
    value.serialize(Writer(&mut out)).ok()?;
    String::from_utf8(out).ok()
}

type Written = Result<(), Long>;

struct Writer<'o>(&'o mut Vec<u8>);

impl<'o> Writer<'o> {
    fn text(self, text: &str) -> Written {
        // The escapes of RFC 8785 are those that serde_json writes.
        serde_json::to_writer(&mut *self.0, text).map_err(|_| Long)
    }

    fn word(self, word: &str) -> Written {
        self.0.extend_from_slice(word.as_bytes());
        Ok(())
    }

    /// Begins a list, inside an object of one key where a variant is told.
    fn list(mut self, variant: Option<&str>) -> Result<List<'o>, Long> {
        let end: &[u8] = if variant.is_some() { b"]}" } else { b"]" };
        self.open(variant)?;
        self.0.push(b'[');
        Ok(List { out: self.0, first: true, end })
    }

    fn object(mut self, variant: Option<&str>) -> Result<Object<'o>, Long> {
        let end: &[u8] = if variant.is_some() { b"}}" } else { b"}" };
        self.open(variant)?;
        self.0.push(b'{');
        let start = self.0.len();
        Ok(Object { out: self.0, start, entries: Vec::with_capacity(8), end })
    }

    fn open(&mut self, variant: Option<&str>) -> Written {
        let Some(variant) = variant else { return Ok(()) };
        self.0.push(b'{');
        Writer(self.0).text(variant)?;
        self.0.push(b':');
        Ok(())
    }
}

impl<'o> Writer<'o> {
    fn whole(self, number: u64, negative: bool) -> Written {
        if number >= EXACT {
            return Err(Long);
        }
        let sign = if negative { "-" } else { "" };
        write!(self.0, "{sign}{number}").map_err(|_| Long)
    }
}

impl<'o> Serializer for Writer<'o> {
    type Ok = ();
    type Error = Long;
    type SerializeSeq = List<'o>;
    type SerializeTuple = List<'o>;
    type SerializeTupleStruct = List<'o>;
    type SerializeTupleVariant = List<'o>;
    type SerializeMap = Object<'o>;
    type SerializeStruct = Object<'o>;
    type SerializeStructVariant = Object<'o>;

    fn serialize_bool(self, value: bool) -> Written {
        self.word(if value { "true" } else { "false" })
    }
    fn serialize_i8(self, value: i8) -> Written {
        self.serialize_i64(value.into())
    }
    fn serialize_i16(self, value: i16) -> Written {
        self.serialize_i64(value.into())
    }
    fn serialize_i32(self, value: i32) -> Written {
        self.serialize_i64(value.into())
    }
    fn serialize_i64(self, value: i64) -> Written {
        self.whole(value.unsigned_abs(), value < 0)
    }
    fn serialize_u8(self, value: u8) -> Written {
        self.whole(value.into(), false)
    }
    fn serialize_u16(self, value: u16) -> Written {
        self.whole(value.into(), false)
    }
    fn serialize_u32(self, value: u32) -> Written {
        self.whole(value.into(), false)
    }
    fn serialize_u64(self, value: u64) -> Written {
        self.whole(value, false)
    }
    fn serialize_f32(self, _: f32) -> Written {
        Err(Long)
    }
    fn serialize_f64(self, _: f64) -> Written {
        Err(Long)
    }
    fn serialize_char(self, value: char) -> Written {
        self.text(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Written {
        self.text(value)
    }
    fn serialize_bytes(self, _: &[u8]) -> Written {
        Err(Long)
    }
    fn serialize_none(self) -> Written {
        self.word("null")
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Written {
        self.word("null")
    }
    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.word("null")
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.text(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        self.open(Some(variant))?;
        value.serialize(Writer(self.0))?;
        self.0.push(b'}');
        Ok(())
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<List<'o>, Long> {
        self.list(None)
    }
    fn serialize_tuple(self, _: usize) -> Result<List<'o>, Long> {
        self.list(None)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'o>, Long> {
        self.list(None)
    }
    fn serialize_tuple_variant(self, _: &str, _: u32, variant: &'static str, _: usize) -> Result<List<'o>, Long> {
        self.list(Some(variant))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Object<'o>, Long> {
        self.object(None)
    }
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Object<'o>, Long> {
        // A struct of serde_json's own that stands for text or numbers as they were written.
        if name.starts_with('$') { Err(Long) } else { self.object(None) }
    }
    fn serialize_struct_variant(self, _: &str, _: u32, variant: &'static str, _: usize) -> Result<Object<'o>, Long> {
        self.object(Some(variant))
    }
}

struct List<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
    end: &'static [u8],
}

impl List<'_> {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        value.serialize(Writer(self.out))
    }

    fn close(self) -> Written {
        self.out.extend_from_slice(self.end);
        Ok(())
    }
}

/// An object: members as they come, sorted at the end where they did not come in order.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    entries: Vec<Member>,
    end: &'static [u8],
}

/// Where a member stands: its key without quotes, and its end. Members stand one after the other with a comma between.
#[derive(Clone, Copy)]
struct Member {
    key: (usize, usize),
    end: usize,
}

impl Object<'_> {
    fn key(&mut self, key: &str) -> Written {
        // Plain keys sort by their bytes as they do by UTF-16, and are written as they are.
        if !key.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
            return Err(Long);
        }
        if !self.entries.is_empty() {
            self.out.push(b',');
        }
        self.out.push(b'"');
        let from = self.out.len();
        self.out.extend_from_slice(key.as_bytes());
        self.entries.push(Member { key: (from, self.out.len()), end: 0 });
        self.out.extend_from_slice(b"\":");
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        value.serialize(Writer(self.out))?;
        let end = self.out.len();
        self.entries.last_mut().map(|member| member.end = end).ok_or(Long)
    }

    fn close(mut self) -> Written {
        let mut sorted = std::mem::take(&mut self.entries);
        let key = |member: &Member| self.out.get(member.key.0..member.key.1).unwrap_or_default();
        if !sorted.is_sorted_by(|one, two| key(one) < key(two)) {
            sorted.sort_by(|one, two| key(one).cmp(key(two)));
            if sorted.windows(2).any(|pair| matches!(pair, [one, two] if key(one) == key(two))) {
                // Which of two equal keys counts is the long way's question.
                return Err(Long);
            }
            let mut text = Vec::with_capacity(self.out.len() - self.start);
            for member in &sorted {
                if !text.is_empty() {
                    text.push(b',');
                }
                text.extend_from_slice(self.out.get(member.key.0 - 1..member.end).ok_or(Long)?);
            }
            self.out.truncate(self.start);
            self.out.append(&mut text);
        }
        self.out.extend_from_slice(self.end);
        Ok(())
    }
}

macro_rules! lists {
    ($($of:ident $add:ident),*) => {$(
        impl $of for List<'_> {
            type Ok = ();
            type Error = Long;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
                self.add(value)
            }
            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

lists!(SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);

macro_rules! objects {
    ($($of:ident),*) => {$(
        impl $of for Object<'_> {
            type Ok = ();
            type Error = Long;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Written {
                self.key(key)?;
                self.value(value)
            }
            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

objects!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Object<'_> {
    type Ok = ();
    type Error = Long;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        let key = key.serialize(Key)?;
        self.key(&key)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.value(value)
    }
    fn end(self) -> Written {
        self.close()
    }
}

/// A key of a map, which is a text here or goes the long way.
struct Key;

type Never = Impossible<String, Long>;

macro_rules! no_keys {
    ($($name:ident($($kind:ty),*) -> $gives:ty;)*) => {
        $(fn $name(self, $(_: $kind),*) -> Result<$gives, Long> { Err(Long) })*
    };
}

impl Serializer for Key {
    type Ok = String;
    type Error = Long;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    fn serialize_str(self, value: &str) -> Result<String, Long> {
        Ok(value.to_owned())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<String, Long> {
        Ok(variant.to_owned())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<String, Long> {
        value.serialize(self)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<String, Long> {
        Err(Long)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &str, _: u32, _: &str, _: &T) -> Result<String, Long> {
        Err(Long)
    }
    no_keys! {
        serialize_bool(bool) -> String;
        serialize_i8(i8) -> String;
        serialize_i16(i16) -> String;
        serialize_i32(i32) -> String;
        serialize_i64(i64) -> String;
        serialize_u8(u8) -> String;
        serialize_u16(u16) -> String;
        serialize_u32(u32) -> String;
        serialize_u64(u64) -> String;
        serialize_f32(f32) -> String;
        serialize_f64(f64) -> String;
        serialize_char(char) -> String;
        serialize_bytes(&[u8]) -> String;
        serialize_none() -> String;
        serialize_unit() -> String;
        serialize_unit_struct(&'static str) -> String;
        serialize_seq(Option<usize>) -> Never;
        serialize_tuple(usize) -> Never;
        serialize_tuple_struct(&'static str, usize) -> Never;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Never;
        serialize_map(Option<usize>) -> Never;
        serialize_struct(&'static str, usize) -> Never;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Never;
    }
}
