//! Server-sent events, taken apart as they come: each whole event with the bytes that it had.
//!
//! What a client could not read either (half an event at the end) is still given back as bytes.

use bytes::{Bytes, BytesMut};

/// An event is longer than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// A stream of events under reading.
pub(super) struct Events {
    buffer: BytesMut,
    /// How far the buffer was looked at, and where the line there began.
    at: usize,
    line: usize,
    most: usize,
}

impl Events {
    /// Events of at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), at: 0, line: 0, most }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The event that they belong to has no end within the limit.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > self.most.saturating_add(bytes.len()) { Err(TooLong) } else { Ok(()) }
    }

    /// The bytes of the next whole event, its blank line included. A line ends with LF, CR LF or CR.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        loop {
            let byte = *self.buffer.get(self.at)?;
            let mut end = self.at + 1;
            if byte == b'\r' {
                match self.buffer.get(end) {
                    // Whether LF follows decides where the line ends.
                    None => return None,
                    Some(b'\n') => end += 1,
                    Some(_) => {}
                }
            } else if byte != b'\n' {
                self.at = end;
                continue;
            }
            let empty = self.at == self.line;
            (self.at, self.line) = (end, end);
            if empty {
                (self.at, self.line) = (0, 0);
                return Some(self.buffer.split_to(end).freeze());
            }
        }
    }

    /// What is left when the stream has ended: an event without its end, or nothing.
    pub(super) fn rest(&mut self) -> Bytes {
        (self.at, self.line) = (0, 0);
        self.buffer.split().freeze()
    }
}

/// The data of an event: its `data` lines, joined by line feeds. `None` for one without data.
pub(super) fn data(event: &[u8]) -> Option<Vec<u8>> {
    let mut data: Option<Vec<u8>> = None;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value.split_first() {
            None => value,
            Some((b':', rest)) => rest.strip_prefix(b" ").unwrap_or(rest),
            Some(_) => continue,
        };
        match &mut data {
            None => data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let text = b": hi\n\nevent: a\ndata: {\"x\":\r\ndata:1}\r\n\r\ndata: 2\r\rdata: [DONE]\n\nhalf";
        let wanted: [&[u8]; 4] =
            [b": hi\n\n", b"event: a\ndata: {\"x\":\r\ndata:1}\r\n\r\n", b"data: 2\r\r", b"data: [DONE]\n\n"];
        for size in 1..=text.len() {
            let mut events = Events::new(1 << 10);
            let mut found = Vec::new();
            for piece in text.chunks(size) {
                events.push(piece).unwrap();
                found.extend(std::iter::from_fn(|| events.next()));
            }
            assert_eq!(found, wanted, "pieces of {size}");
            assert_eq!(&events.rest()[..], b"half");
        }
        let read: Vec<_> = wanted.iter().map(|event| data(event)).collect();
        assert_eq!(read, [None, Some(b"{\"x\":\n1}".to_vec()), Some(b"2".to_vec()), Some(b"[DONE]".to_vec())]);
        assert_eq!((data(b"data\n\n"), data(b"database: 1\n\n")), (Some(Vec::new()), None));
    }

    #[test]
    fn an_event_without_end_is_too_long() {
        let mut events = Events::new(10);
        assert_eq!(events.push(b"data: 12345"), Ok(()));
        assert_eq!((events.next(), events.push(b"6")), (None, Err(TooLong)));
    }

    proptest::proptest! {
        #[test]
        fn no_byte_is_lost_or_made_up(text in "[a\n\r: ]{0,60}", size in 1_usize..7) {
            let mut events = Events::new(1 << 10);
            let mut all = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.push(piece).unwrap();
                std::iter::from_fn(|| events.next()).for_each(|event| all.extend_from_slice(&event));
            }
            all.extend_from_slice(&events.rest());
            proptest::prop_assert_eq!(all, text.as_bytes());
        }
    }
}
