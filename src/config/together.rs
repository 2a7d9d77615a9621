//! What values mean together: contradictions between values that are each right by themselves. Called by `check`.

use std::net::SocketAddr;

use super::reading::Checking;
use super::units::duration_text;
use super::values::{Config, Role, Verification};
use crate::cluster::KeySource;

impl Checking<'_> {
    /// What values mean together.
    pub(super) fn check_together(&mut self, config: Option<&Config>) {
        if self.issuer_count() == 0 && !self.problems.iter().any(|problem| problem.key.starts_with("tokens.issuers")) {
            self.refuse::<()>("tokens.issuers", "is empty, so no token would be believed: expected at least one { issuer: …, keys: { file: … } }");
        }
        let Some(config) = config else { return };
        let Config { certificates, authority, server, tokens, .. } = config;
        let text = duration_text;
        let (longest, floor) = (certificates.max_lifetime, certificates.floor());
        if floor > longest {
            let reason = format!(
                "{} is too long: five times it is the shortest lifetime, so at most {} beside maxLifetime {}",
                text(certificates.backdate),
                text(longest / 5),
                text(longest)
            );
            self.refuse::<()>("certificates.backdate", &reason);
        } else if certificates.default_lifetime < floor {
            let reason = format!("{} is too short: expected at least five times backdate, {}", text(certificates.default_lifetime), text(floor));
            self.refuse::<()>("certificates.defaultLifetime", &reason);
        }
        if certificates.default_lifetime > longest {
            let reason = format!("{} is longer than maxLifetime: expected at most {}", text(certificates.default_lifetime), text(longest));
            self.refuse::<()>("certificates.defaultLifetime", &reason);
        }
        if authority.issuing_lifetime < longest * 3 {
            let reason = format!(
                "{} is too short: expected at least three times certificates.maxLifetime, {}, so that it is renewed before it shortens a certificate",
                text(authority.issuing_lifetime),
                text(longest * 3)
            );
            self.refuse::<()>("authority.issuingLifetime", &reason);
        }
        if authority.issuing_lifetime > authority.root_lifetime {
            let reason =
                format!("{} is longer than rootLifetime: expected at most {}", text(authority.issuing_lifetime), text(authority.root_lifetime));
            self.refuse::<()>("authority.issuingLifetime", &reason);
        }
        if tokens.audiences.is_empty() {
            self.refuse::<()>("tokens.audiences", "is empty, so no token would be believed: expected at least one, like [istio-ca]");
        }
        if config.cluster.is_none() {
            let wanted = "needs a cluster: expected cluster.inCluster: true, or cluster.kubeconfig: PATH";
            if tokens.verification == Verification::TokenReview {
                self.refuse::<()>("tokens.verification", wanted);
            }
            if config.controllers.root_config_map.is_some() {
                self.refuse::<()>("controllers.rootConfigMap.enabled", wanted);
            }
            if config.controllers.istiod.is_some() {
                self.refuse::<()>("controllers.istiod.namespace", wanted);
            }
            if config.controllers.cacerts.is_some() {
                self.refuse::<()>("controllers.cacerts.namespace", wanted);
            }
            if config.admin_network.is_some() {
                self.refuse::<()>("admin.listen", wanted);
            }
            if config.state_secrets.is_some() {
                self.refuse::<()>("state.store", wanted);
            }
            for index in 0..tokens.issuers.len() {
                if tokens.issuers.get(index).is_some_and(|issuer| issuer.keys == KeySource::ApiServer) {
                    self.refuse::<()>(&format!("tokens.issuers[{index}].keys.apiServer"), wanted);
                }
            }
        }
        self.check_cacerts(config);
        self.check_clusters(config);
        if config.role != Role::All && (config.state_secrets.is_none() || config.ledger_postgres.is_none()) {
            self.refuse::<()>(
                "role",
                "is for replicas that share everything: expected all, or state.store: secrets and a ledger.postgres.url beside it",
            );
        }
        let others = config.cluster.as_ref().and_then(|cluster| cluster.remote_secrets_namespace.as_ref());
        if config.role == Role::Issuer && others.is_some_and(|others| config.state_secrets.as_ref().is_some_and(|state| state.namespace == *others)) {
            self.refuse::<()>(
                "cluster.remoteSecretsNamespace",
                "is state.secrets.namespace: expected another, or an issuer could read the root key, because it lists all Secrets there",
            );
        }
        for (index, issuer) in tokens.issuers.iter().enumerate() {
            if tokens.issuers.iter().take(index).any(|earlier| earlier.issuer == issuer.issuer) {
                self.refuse::<()>(
                    &format!("tokens.issuers[{index}].issuer"),
                    &format!("{:?} is there already: expected each issuer only once", issuer.issuer),
                );
            }
        }
        if server.serving_dns_names.is_empty() && server.serving_ip_addresses.is_empty() {
            self.refuse::<()>("server.servingDNSNames", "is empty, and so is servingIPAddresses: expected at least one name that clients connect to");
        }
        if server.max_in_flight < server.max_concurrent_streams as usize {
            let reason = format!(
                "{} is below maxConcurrentStreams: expected at least {}, or one connection could take all",
                server.max_in_flight, server.max_concurrent_streams
            );
            self.refuse::<()>("server.maxInFlight", &reason);
        }
        if server.max_handshakes > server.max_connections {
            self.refuse::<()>(
                "server.maxHandshakes",
                &format!("{} is above maxConnections: expected at most {}", server.max_handshakes, server.max_connections),
            );
        }
        if let Some(network) = &config.admin_network
            && tokens.audiences.contains(&network.audience)
        {
            let reason =
                format!("{:?} is one of tokens.audiences: expected another, or whoever sees a workload's token could operate us", network.audience);
            self.refuse::<()>("admin.audience", &reason);
        }
        let admin = config.admin_network.as_ref().map(|network| ("admin.listen", network.listen));
        let listeners = [("server.listen", server.listen), ("health.listen", config.health_listen), ("metrics.listen", config.metrics_listen)];
        let listeners: Vec<_> = listeners.into_iter().chain(admin).collect();
        for (index, (key, address)) in listeners.iter().enumerate() {
            if let Some((other, _)) = listeners.iter().take(index).find(|(_, earlier)| collide(*earlier, *address)) {
                self.refuse::<()>(key, &format!("{address} is taken by {other}: expected another port"));
            }
        }
    }
}

impl Checking<'_> {
    /// An intermediate lives no longer than a root.
    fn check_cacerts(&mut self, config: &Config) {
        let (Some(cacerts), Some(_)) = (&config.controllers.cacerts, &config.cluster) else { return };
        let longest = config.authority.root_lifetime;
        if cacerts.lifetime > longest {
            let (given, longest) = (duration_text(cacerts.lifetime), duration_text(longest));
            let reason = format!("{given} is longer than authority.rootLifetime: expected at most {longest}");
            self.refuse::<()>("controllers.cacerts.lifetime", &reason);
        }
    }

    /// Where istiods of other clusters are given something, other clusters are joined.
    fn check_clusters(&mut self, config: &Config) {
        let Config { controllers, cluster: Some(cluster), .. } = config else { return };
        if cluster.remote_secrets_namespace.is_some() {
            return;
        }
        let istiod = controllers.istiod.iter().flat_map(|istiod| &istiod.clusters).map(|name| ("controllers.istiod.clusters", name));
        let cacerts = controllers.cacerts.iter().flat_map(|cacerts| &cacerts.clusters).map(|name| ("controllers.cacerts.clusters", name));
        for (key, other) in istiod.chain(cacerts).filter(|(_, name)| **name != config.cluster_id) {
            let wanted = "expected clusterID, or cluster.remoteSecretsNamespace beside it, where a Secret names that cluster";
            self.refuse::<()>(key, &format!("{other:?} is not our own cluster: {wanted}"));
        }
    }
}

/// Whether two listeners would want the same port; port 0 is a free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
