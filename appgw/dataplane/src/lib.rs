//! The layer-7 tier: TLS, HTTP, routes, filters and pools.
//!
//! The modules stand in the order in which a connection meets them: `intake` takes it from the
//! edge, `connection` reads its PROXY header, TLS and requests (`http1`), `routing` chooses a route,
//! `exchange` asks `filters`, `carrier` and `upstream` find an endpoint and a connection, `transfer`
//! moves the bytes, `answer` speaks where no application does, `insight` tells of it.

mod answer;
mod buffer;
mod carrier;
mod client;
pub mod client_certificate;
mod config;
mod connection;
mod downstream;
mod exchange;
mod filters;
mod forwarded;
mod grpc;
pub mod grpc_web;
pub mod http1;
pub mod http2;
mod insight;
mod intake;
mod introduction;
mod io;
pub mod message;
mod plane;
pub mod routing;
mod target;
mod tickets;
mod tls;
mod transfer;
mod tunnel;
mod upstream;
mod websocket;
mod wire;

pub use config::validate;
pub use plane::GatewayPlane;
