//! Host and path lookup by hash: the cost follows the request's labels and segments, not the routes.

use rustc_hash::FxHashMap;
use weirgate_shared::snapshot::{Match, PathKind};

/// Routes of one host pattern, by what they want of the path. Every list is in ascending order.
#[derive(Default)]
struct Paths {
    exact: FxHashMap<Vec<u8>, Vec<u32>>,
    /// By prefix without its trailing slash.
    prefix: FxHashMap<Vec<u8>, Vec<u32>>,
    /// The most segments that a prefix has.
    deepest: usize,
    /// No condition, `/*`, or an expression.
    other: Vec<u32>,
}

/// All routes by host pattern.
#[derive(Default)]
pub(super) struct Index {
    exact: FxHashMap<Vec<u8>, Paths>,
    /// By what follows the `*`, with its dot.
    suffix: FxHashMap<Vec<u8>, Paths>,
    any: Paths,
}

/// Lists that can hold the answer; more than this many are rare and then looked at again.
type Lists<'a> = smallvec::SmallVec<[&'a [u32]; 16]>;

impl Index {
    pub(super) fn add(&mut self, route: usize, wanted: &Match) {
        if wanted.hosts.is_empty() {
            self.any.add(route, wanted);
        }
        for host in &wanted.hosts {
            let paths = match host.strip_prefix('*') {
                Some(suffix) => self.suffix.entry(suffix.as_bytes().to_vec()).or_default(),
                None => self.exact.entry(host.as_bytes().to_vec()).or_default(),
            };
            paths.add(route, wanted);
        }
    }

    /// Once all routes are added: a route with two equal alternatives stands in a list once.
    pub(super) fn finish(&mut self) {
        let paths = self.exact.values_mut().chain(self.suffix.values_mut()).chain([&mut self.any]);
        for list in
            paths.flat_map(|paths| paths.exact.values_mut().chain(paths.prefix.values_mut()).chain([&mut paths.other]))
        {
            list.dedup();
        }
    }

    /// The lowest route that can match and that `judge` accepts.
    pub(super) fn first<T>(&self, host: &[u8], path: &[u8], judge: impl Fn(usize) -> Option<T>) -> Option<T> {
        let mut lists = Lists::new();
        if !self.exact.is_empty()
            && let Some(paths) = self.exact.get(host)
        {
            paths.collect(path, &mut lists);
        }
        if !self.suffix.is_empty() {
            for dot in memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0) {
                if let Some(paths) = self.suffix.get(&host[dot..]) {
                    paths.collect(path, &mut lists);
                }
            }
        }
        self.any.collect(path, &mut lists);
        merge(&mut lists, judge)
    }
}

impl Paths {
    fn add(&mut self, route: usize, wanted: &Match) {
        let route = route as u32;
        if wanted.paths.is_empty() {
            self.other.push(route);
        }
        for path in &wanted.paths {
            let value = path.value.as_bytes();
            match path.kind {
                PathKind::Exact => self.exact.entry(value.to_vec()).or_default().push(route),
                PathKind::Prefix if value.is_empty() => self.other.push(route),
                PathKind::Prefix => {
                    self.deepest = self.deepest.max(memchr::memchr_iter(b'/', value).count());
                    self.prefix.entry(value.to_vec()).or_default().push(route);
                }
                PathKind::Regex => self.other.push(route),
            }
        }
    }

    fn collect<'a>(&'a self, path: &[u8], lists: &mut Lists<'a>) {
        if !self.other.is_empty() {
            lists.push(&self.other);
        }
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(path)
        {
            lists.push(list);
        }
        if self.prefix.is_empty() {
            return;
        }
        // Every border of a segment, up to the deepest prefix there is.
        let borders = memchr::memchr_iter(b'/', path).skip(1).chain([path.len()]);
        for end in borders.take(self.deepest) {
            if let Some(list) = self.prefix.get(&path[..end]) {
                lists.push(list);
            }
        }
    }
}

/// Walk sorted lists as one, in ascending order, until `judge` accepts.
fn merge<T>(lists: &mut Lists<'_>, judge: impl Fn(usize) -> Option<T>) -> Option<T> {
    loop {
        let lowest = lists.iter().filter_map(|list| list.first()).min().copied()?;
        if let Some(found) = judge(lowest as usize) {
            return Some(found);
        }
        for list in lists.iter_mut() {
            if list.first() == Some(&lowest) {
                *list = &list[1..];
            }
        }
    }
}
