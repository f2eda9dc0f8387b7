//! Types and mechanisms that both Weirgate tiers use.
//!
//! `snapshot` is the compiled configuration, `endpoint_report` what changes between two; `net` is the only module with `unsafe`; `handoff`,
//! `load_page` and `rate_table` are the contracts between processes (docs/contracts.md).

pub mod access_log;
pub mod balance;
pub mod bootstrap;
pub mod cidr;
pub mod client_hello;
pub mod clock;
pub mod connect;
pub mod connection_id;
pub mod deadline;
mod ejection;
pub mod endpoint;
pub mod endpoint_report;
pub mod handoff;
pub mod hash;
pub mod json;
pub mod load_page;
pub mod log_writer;
pub mod metrics;
pub mod net;
pub mod place;
pub mod places;
pub mod poll_thread;
pub mod pool;
pub mod proxy_header;
pub mod proxy_header_write;
pub mod rate_table;
pub mod reason;
pub mod relay;
pub mod shun_list;
pub mod snapshot;
pub mod source;
pub mod succession;
pub mod throttle;
pub mod worker;
