//! The model proxies: requests, streams, reports of usage.

#[path = "../../../src/egress/llm/ask.rs"]
pub(crate) mod ask;
#[path = "../../../src/egress/llm/bound.rs"]
pub(crate) mod bound;
#[path = "../../../src/egress/llm/edit.rs"]
pub(crate) mod edit;
#[path = "../../../src/egress/llm/hostile.rs"]
pub(crate) mod hostile;
#[path = "../../../src/egress/llm/meter.rs"]
pub(crate) mod meter;
#[path = "../../../src/egress/llm/refusal.rs"]
pub(crate) mod refusal;
#[path = "../../../src/egress/llm/sse.rs"]
pub(crate) mod sse;
#[path = "../../../src/egress/llm/usage.rs"]
pub(crate) mod usage;
