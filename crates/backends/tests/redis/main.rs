//! `RedisClient` on real servers, which each test starts for itself.

mod calls;
mod check;
mod cluster;
mod harness;
mod loss;
mod reserve;
mod tls;
