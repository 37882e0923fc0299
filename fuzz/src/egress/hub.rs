//! The Hub's proxy: addresses, launches, commits, and what the Hub says.

#[path = "../../../src/egress/hub/book.rs"]
pub(crate) mod book;
#[path = "../../../src/egress/hub/commit.rs"]
pub(crate) mod commit;
#[path = "../../../src/egress/hub/content.rs"]
pub(crate) mod content;
#[path = "../../../src/egress/hub/forbidden.rs"]
pub(crate) mod forbidden;
#[path = "../../../src/egress/hub/hostile.rs"]
pub(crate) mod hostile;
#[path = "../../../src/egress/hub/launch.rs"]
pub(crate) mod launch;
#[path = "../../../src/egress/hub/manifest.rs"]
pub(crate) mod manifest;
#[path = "../../../src/egress/hub/plan.rs"]
pub(crate) mod plan;
#[path = "../../../src/egress/hub/prices.rs"]
pub(crate) mod prices;
#[path = "../../../src/egress/hub/repo.rs"]
pub(crate) mod repo;
#[path = "../../../src/egress/hub/request.rs"]
pub(crate) mod request;
