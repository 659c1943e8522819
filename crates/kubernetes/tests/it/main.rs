//! Clusters at the HTTP seam of kube's client.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod wire_cluster;
