//! The proxies without their sockets: what reads requests of clients and answers of upstreams.
#![allow(dead_code, unused_imports, reason = "each file is used in part")]

#[path = "../../src/egress/error.rs"]
pub(crate) mod error;

/// A denial of the gate, as the library has it.
pub(crate) mod held {
    pub(crate) struct Denial {
        pub(crate) code: crate::model::ReasonCode,
        pub(crate) text: String,
    }
}

pub(crate) mod hub {
    #[path = "../../../../src/egress/hub/book.rs"]
    pub(crate) mod book;
    #[path = "../../../../src/egress/hub/commit.rs"]
    pub(crate) mod commit;
    #[path = "../../../../src/egress/hub/content.rs"]
    pub(crate) mod content;
    #[path = "../../../../src/egress/hub/forbidden.rs"]
    pub(crate) mod forbidden;
    #[path = "../../../../src/egress/hub/hostile.rs"]
    pub(crate) mod hostile;
    #[path = "../../../../src/egress/hub/launch.rs"]
    pub(crate) mod launch;
    #[path = "../../../../src/egress/hub/manifest.rs"]
    pub(crate) mod manifest;
    #[path = "../../../../src/egress/hub/plan.rs"]
    pub(crate) mod plan;
    #[path = "../../../../src/egress/hub/prices.rs"]
    pub(crate) mod prices;
    #[path = "../../../../src/egress/hub/repo.rs"]
    pub(crate) mod repo;
    #[path = "../../../../src/egress/hub/request.rs"]
    pub(crate) mod request;
}

pub(crate) mod llm {
    #[path = "../../../../src/egress/llm/ask.rs"]
    pub(crate) mod ask;
    #[path = "../../../../src/egress/llm/bound.rs"]
    pub(crate) mod bound;
    #[path = "../../../../src/egress/llm/edit.rs"]
    pub(crate) mod edit;
    #[path = "../../../../src/egress/llm/hostile.rs"]
    pub(crate) mod hostile;
    #[path = "../../../../src/egress/llm/meter.rs"]
    pub(crate) mod meter;
    #[path = "../../../../src/egress/llm/refusal.rs"]
    pub(crate) mod refusal;
    #[path = "../../../../src/egress/llm/sse.rs"]
    pub(crate) mod sse;
    #[path = "../../../../src/egress/llm/usage.rs"]
    pub(crate) mod usage;
}
