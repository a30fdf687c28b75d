//! Reading the stream of events at little cost: a thousand edges have a thousand cores to take a snapshot apart, and
//! these have one. Events of a snapshot are passed over, everything is counted.

use contract::identity::watch_auth_events_response::Message as Told;
use contract::identity::{Position, Snapshot, WatchAuthEventsRequest, WatchAuthEventsResponse};
use prost::Message;
use prost::bytes::Buf;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};

use super::grpc::Plane;

/// A message and its bytes.
pub struct Counted {
    pub message: WatchAuthEventsResponse,
    pub bytes: usize,
}

/// Follows the stream from a position, or from nowhere.
pub async fn watch(plane: Plane, since: Option<Position>) -> Result<Streaming<Counted>, Status> {
    let mut client = tonic::client::Grpc::new(plane).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|fault| Status::unavailable(fault.to_string()))?;
    let path = PathAndQuery::from_static("/persona.identity.v1.LiveClaimsService/WatchAuthEvents");
    let request = Request::new(WatchAuthEventsRequest { since });
    Ok(client.server_streaming(request, path, Light).await?.into_inner())
}

/// The messages of the stream without what fills a snapshot.
#[derive(Clone, PartialEq, Message)]
struct Outline {
    #[prost(message, optional, tag = "1")]
    snapshot: Option<OutlineOfSnapshot>,
}

#[derive(Clone, PartialEq, Message)]
struct OutlineOfSnapshot {
    #[prost(message, optional, tag = "1")]
    position: Option<Position>,
    #[prost(bool, tag = "3")]
    more: bool,
}

struct Light;

impl Codec for Light {
    type Encode = WatchAuthEventsRequest;
    type Decode = Counted;
    type Encoder = Light;
    type Decoder = Light;

    fn encoder(&mut self) -> Light {
        Light
    }

    fn decoder(&mut self) -> Light {
        Light
    }
}

impl Encoder for Light {
    type Item = WatchAuthEventsRequest;
    type Error = Status;

    fn encode(&mut self, request: WatchAuthEventsRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(buffer).map_err(|fault| Status::internal(fault.to_string()))
    }
}

impl Decoder for Light {
    type Item = Counted;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Counted>, Status> {
        let garbled = |fault: prost::DecodeError| Status::internal(fault.to_string());
        let bytes = buffer.remaining();
        let whole = buffer.copy_to_bytes(bytes);
        let outline = Outline::decode(whole.clone()).map_err(garbled)?;
        let message = match outline.snapshot {
            Some(OutlineOfSnapshot { position, more }) => WatchAuthEventsResponse {
                message: Some(Told::Snapshot(Snapshot { position, events: Vec::new(), more })),
            },
            None => WatchAuthEventsResponse::decode(whole).map_err(garbled)?,
        };
        Ok(Some(Counted { message, bytes }))
    }
}
