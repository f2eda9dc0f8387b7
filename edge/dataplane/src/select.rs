//! Choosing a gateway: `least_load`, the better of two by the load page.

use weirgate_shared::balance::Random;
use weirgate_shared::load_page::{GatewayState, LoadPage};

/// Gateways to try, best first, without allocation for the usual case.
///
/// Only `ready` ones while there are any. Otherwise those whose process is starting or down: their
/// queue stays open, and the successor takes what is in it. A draining one is the last resort.
pub(crate) fn candidates(page: &LoadPage, gateways: usize, random: &Random, out: &mut Vec<usize>) {
    out.clear();
    out.extend((0..gateways).filter(|&index| page.read(index).state == GatewayState::Ready));
    if out.is_empty() {
        out.extend((0..gateways).filter(|&index| page.read(index).state != GatewayState::Draining));
    }
    if out.is_empty() {
        out.extend(0..gateways);
    }
    best_of_two_first(page, random, out);
}

fn best_of_two_first(page: &LoadPage, random: &Random, out: &mut [usize]) {
    let count = out.len() as u64;
    if count < 2 {
        return;
    }
    let first = random.below(count) as usize;
    let second = (first + 1 + random.below(count - 1) as usize) % out.len();
    let better = if page.weight_of(out[second]) < page.weight_of(out[first]) { second } else { first };
    out.swap(0, better);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(page: &LoadPage, gateways: usize) -> Vec<usize> {
        let random = Random::seeded(3);
        let mut out = Vec::new();
        let mut counts = vec![0; gateways];
        for _ in 0..1000 {
            candidates(page, gateways, &random, &mut out);
            counts[out[0]] += 1;
        }
        counts
    }

    #[test]
    fn only_ready_gateways_and_never_the_busier_of_two() {
        let page = LoadPage::create().expect("memfd");
        for index in 0..3 {
            page.set_state(index, GatewayState::Ready);
            page.publish(index, index as u64 * 10, 0, 0);
        }
        let counts = choose(&page, 3);
        assert_eq!(counts[2], 0, "the busiest loses every comparison");
        assert!(counts[0] > counts[1]);
        page.set_state(0, GatewayState::Draining);
        page.set_state(1, GatewayState::Down);
        assert_eq!(choose(&page, 3), [0, 0, 1000]);
        page.set_state(2, GatewayState::Down);
        assert_eq!(choose(&page, 3)[0], 0, "a successor takes the queue; the draining one has none");
    }
}
