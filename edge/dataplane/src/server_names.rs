//! Where a tls connection goes: by the name in its client hello, exact before wildcard, longest first.

use std::rc::Rc;

use rustc_hash::FxHashMap;
use weirgate_shared::pool::Pool;
use weirgate_shared::snapshot::{DefaultTarget, ServerNames as Settings};

/// A destination of a connection.
#[derive(Clone)]
pub(crate) enum Target {
    /// Relayed as it is.
    Pool(Rc<Pool>),
    /// Handed to a gateway, which terminates TLS.
    Gateways,
}

/// The names of one listener.
pub(crate) struct ServerNames {
    exact: FxHashMap<String, Target>,
    /// `*.x` by `x`: one or more labels more.
    wildcard: FxHashMap<String, Target>,
    default: Option<Target>,
}

impl ServerNames {
    /// The run-time form of `settings`. The error is a path inside them that names no known pool.
    pub(crate) fn build(settings: &Settings, pools: &FxHashMap<&str, Rc<Pool>>) -> Result<Self, String> {
        let pool = |name: &str, path: String| pools.get(name).map(|pool| Target::Pool(Rc::clone(pool))).ok_or(path);
        let default = match &settings.default {
            DefaultTarget::Pool { pool: name } => Some(pool(name, "default.pool".to_owned())?),
            DefaultTarget::Refuse => None,
            DefaultTarget::Terminate => Some(Target::Gateways),
        };
        let mut names = Self { exact: FxHashMap::default(), wildcard: FxHashMap::default(), default };
        for (pattern, name) in &settings.pools {
            names.insert(pattern, pool(name, format!("pools.{pattern}"))?);
        }
        for pattern in &settings.terminate {
            names.insert(pattern, Target::Gateways);
        }
        Ok(names)
    }

    fn insert(&mut self, pattern: &str, target: Target) {
        match pattern.strip_prefix("*.") {
            Some(parent) => self.wildcard.insert(parent.to_owned(), target),
            None => self.exact.insert(pattern.to_owned(), target),
        };
    }

    /// Where a connection that asks for `name` (in lower case, no dot at the end) goes. `None` = it is refused.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Target> {
        name.and_then(|name| self.exact.get(name).or_else(|| self.find_wildcard(name))).or(self.default.as_ref())
    }

    fn find_wildcard(&self, name: &str) -> Option<&Target> {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(target) = self.wildcard.get(parent) {
                return Some(target);
            }
            rest = parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_shared::endpoint::EndpointRegistry;
    use weirgate_shared::snapshot;

    fn names(settings: &str) -> Result<ServerNames, String> {
        let pool = |name: &str| -> Rc<Pool> {
            let text = format!(
                r#"{{"name":"{name}","balance":{{"policy":"round_robin"}},"endpoints":[],"all_down":"fail_open",
                "minimum_healthy_percent":0,"slow_start_ms":0,"eject":{{"max_percent":50,"early_close_ms":0}},"connect_timeout_ms":0,
                "retries":0,"max_connections":0,"queue_size":0,"queue_timeout_ms":0,"max_idle_connections":0,"idle_timeout_ms":0,"tls":null,
                "proxy_protocol":"off","health":null}}"#
            );
            let settings: snapshot::Pool = serde_json::from_str(&text).expect("valid");
            Rc::new(Pool::new(&settings, &EndpointRegistry::default()))
        };
        let pools = FxHashMap::from_iter([("a", pool("a")), ("b", pool("b")), ("c", pool("c"))]);
        ServerNames::build(&serde_json::from_str(settings).expect("valid"), &pools)
    }

    fn found(names: &ServerNames, name: Option<&str>) -> String {
        match names.find(name) {
            None => "refused".into(),
            Some(Target::Gateways) => "gateways".into(),
            Some(Target::Pool(pool)) => pool.settings.name.clone(),
        }
    }

    #[test]
    fn exact_wins_over_wildcard_and_the_longer_wildcard_over_the_shorter() {
        let names = names(
            r#"{"pools":{"a.example":"a","*.example":"b","*.deep.example":"c"},"terminate":["x.deep.example","*.t.example"],
            "default":{"kind":"refuse"}}"#,
        )
        .expect("valid");
        for (name, target) in [
            ("a.example", "a"),
            ("z.example", "b"),
            ("y.z.example", "b"),
            ("deep.example", "b"),
            ("y.deep.example", "c"),
            ("z.y.deep.example", "c"),
            ("x.deep.example", "gateways"),
            ("one.two.t.example", "gateways"),
            ("example", "refused"),
            ("a.example.org", "refused"),
        ] {
            assert_eq!(found(&names, Some(name)), target, "{name}");
        }
        assert_eq!(found(&names, None), "refused");
    }

    #[test]
    fn the_default_takes_what_is_left() {
        for (default, target) in [(r#"{"kind":"pool","pool":"b"}"#, "b"), (r#"{"kind":"terminate"}"#, "gateways")] {
            let text = format!(r#"{{"pools":{{"a.example":"a"}},"terminate":[],"default":{default}}}"#);
            let names = names(&text).expect("valid");
            let all = [Some("a.example"), Some("x.example"), None].map(|name| found(&names, name));
            assert_eq!(all, ["a", target, target]);
        }
        let unknown = |text: &str| names(text).err();
        let text = r#"{"pools":{"a.example":"z"},"terminate":[],"default":{"kind":"refuse"}}"#;
        assert_eq!(unknown(text).as_deref(), Some("pools.a.example"));
        let text = r#"{"pools":{},"terminate":[],"default":{"kind":"pool","pool":"z"}}"#;
        assert_eq!(unknown(text).as_deref(), Some("default.pool"));
    }
}
