//! A message that is encoded once, however many it is sent to.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// A message as it was received, or the bytes of one that is to be sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded<M> {
    /// What is sent, where there is something; otherwise `message` is.
    bytes: Option<Bytes>,
    /// What was received.
    message: M,
}

impl<M: Message + Default> Encoded<M> {
    /// Encodes a message. Clones share its bytes.
    pub fn new(message: &M) -> Self {
        Self {
            bytes: Some(message.encode_to_vec().into()),
            message: M::default(),
        }
    }

    /// The message that was received.
    pub fn into_message(self) -> M {
        self.message
    }
}

impl<M: Message + Default> Message for Encoded<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match &self.bytes {
            Some(bytes) => buf.put_slice(bytes),
            None => self.message.encode_raw(buf),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.message.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        match &self.bytes {
            Some(bytes) => bytes.len(),
            None => self.message.encoded_len(),
        }
    }

    fn clear(&mut self) {
        self.bytes = None;
        self.message.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, LogLine};
    use crate::service::WatchResponse;

    #[test]
    fn shared_bytes_are_the_message() {
        let frame = Frame {
            number: 7,
            log: vec![LogLine {
                text: "a message".into(),
                ..LogLine::default()
            }],
            ..Frame::default()
        };
        let sent = WatchResponse {
            frame: Some(Encoded::new(&frame)),
            whole: true,
            left_out: 0,
        };
        let received = WatchResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
        assert_eq!(received.frame.unwrap().into_message(), frame);
        assert!(received.whole);
    }
}
