//! Properties of the policy, on a small cluster whose scheduler is as unkind as may be.

use std::collections::BTreeMap;

use hearth_crds::pod::PodPlacement;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::amounts::Amounts;
use super::policy::{Claim, Decision, Holder, Quota, Standing, View, decide};
use super::pool::{Gang, Node};

const GPU: &str = "nvidia.com/gpu";
const MIN_RUNTIME: SignedDuration = SignedDuration::from_secs(300);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn gpus(count: i128) -> Amounts {
    Amounts([(GPU.to_owned(), count * 1000)].into())
}

fn node(name: &str, devices: i128) -> Node {
    let labels = [("pool".to_owned(), name[..1].to_owned())].into();
    Node { name: name.to_owned(), labels, devices: gpus(devices), taints: Vec::new() }
}

fn claim(name: &str, pods: u32, each: i128, priority: i64, created: i64) -> Claim {
    let charge = Amounts([(format!("requests.{GPU}"), each * 1000)].into());
    Claim {
        uid: name.to_owned(),
        namespace: "team-a".to_owned(),
        name: name.to_owned(),
        priority,
        created: at(created),
        gang: Gang { pods, devices: gpus(each), charge, placement: PodPlacement::default() },
    }
}

fn in_pool(mut claim: Claim, pool: &str) -> Claim {
    claim.gang.placement.node_selector.insert("pool".into(), pool.into());
    claim
}

fn holds(claim: Claim, bound: &[(&str, u32)], since: i64) -> Holder {
    let bound: BTreeMap<_, _> = bound.iter().map(|(n, pods)| ((*n).to_owned(), *pods)).collect();
    let live = claim.gang.pods;
    Holder { claim, bound, live, standing: Standing::Runs(Some(at(since))) }
}

fn view(nodes: Vec<Node>, holders: Vec<Holder>, waiting: Vec<Claim>) -> View {
    View { nodes, holders, waiting, min_runtime: MIN_RUNTIME, ..View::default() }
}

fn told(view: &View, now: i64, job: &str) -> String {
    match decide(view, at(now)).of.get(job) {
        Some(Decision::Admit) => "admit".to_owned(),
        Some(Decision::Wait(why)) => why.clone(),
        Some(Decision::Yield(to)) => format!("yield to {to}"),
        None => "nothing".to_owned(),
    }
}

#[test]
fn a_gang_starts_whole_or_not_at_all() {
    let two = || vec![node("a1", 4), node("a2", 4)];
    let both = view(two(), vec![], vec![claim("x", 2, 4, 0, 1), claim("y", 2, 4, 0, 2)]);
    assert_eq!(told(&both, 9, "x"), "admit");
    assert!(told(&both, 9, "y").starts_with("place 1 in the queue: it needs 2 pods with 4 "));
    let large = view(two(), vec![], vec![claim("x", 3, 4, 0, 1), claim("y", 1, 1, 0, 2)]);
    assert!(told(&large, 9, "x").contains("have room for 2 of them even when empty"));
    assert_eq!(told(&large, 9, "y"), "admit", "what can never start holds nobody up");
}

#[test]
fn order_is_priority_then_age() {
    let waiting =
        vec![claim("young", 1, 4, 0, 3), claim("old", 1, 4, 0, 1), claim("urgent", 1, 4, 10, 9)];
    let one = view(vec![node("a1", 4)], vec![], waiting);
    assert_eq!(told(&one, 9, "urgent"), "admit");
    assert!(told(&one, 9, "old").starts_with("place 1 "));
    assert!(told(&one, 9, "young").starts_with("place 2 in the queue: behind team-a/old"));
}

#[test]
fn the_least_that_helps_yields_once_it_had_its_time() {
    let nodes = vec![node("a1", 4), node("a2", 4)];
    let holders = vec![
        holds(claim("low-long", 1, 4, 1, 1), &[("a1", 1)], 0),
        holds(claim("low-short", 1, 4, 1, 2), &[("a2", 1)], 100),
    ];
    let world = view(nodes, holders, vec![claim("urgent", 1, 4, 5, 3)]);
    assert_eq!(told(&world, 500, "low-short"), "yield to team-a/urgent (priority 5)");
    assert_eq!(told(&world, 500, "low-long"), "admit");
    assert_eq!(told(&world, 350, "low-short"), "admit", "it has not had its time");
    assert_eq!(told(&world, 350, "low-long"), "yield to team-a/urgent (priority 5)");
    assert_eq!(told(&world, 200, "low-long"), "admit");
    assert_eq!(decide(&world, at(200)).look_again, Some(at(300)));
    let equal = View { waiting: vec![claim("peer", 1, 4, 1, 3)], ..world };
    assert_eq!(told(&equal, 900, "low-short"), "admit", "equals do not push each other out");
}

#[test]
fn who_leaves_makes_room_and_nobody_else_is_asked() {
    let nodes = vec![node("a1", 4), node("a2", 4)];
    let mut leaving = holds(claim("gone", 1, 4, 0, 1), &[("a1", 1)], 0);
    leaving.standing = Standing::Leaving;
    let stays = holds(claim("stays", 1, 4, 0, 2), &[("a2", 1)], 0);
    let again = leaving.claim.clone();
    let world = view(nodes, vec![leaving, stays], vec![claim("urgent", 1, 4, 5, 3), again]);
    assert!(told(&world, 900, "urgent").contains("save a checkpoint and end"));
    assert_eq!(told(&world, 900, "stays"), "admit");
    assert!(told(&world, 900, "gone").starts_with("place 2 "));
}

#[test]
fn another_pool_is_not_held_up() {
    let nodes = vec![node("a1", 4), node("b1", 4)];
    let full = vec![holds(in_pool(claim("runs", 1, 4, 0, 1), "a"), &[("a1", 1)], 0)];
    let waiting =
        vec![in_pool(claim("head", 1, 4, 0, 2), "a"), in_pool(claim("other", 1, 4, 0, 3), "b")];
    let world = view(nodes, full, waiting);
    assert!(told(&world, 9, "head").starts_with("place 1 "));
    assert_eq!(told(&world, 9, "other"), "admit");
}

#[test]
fn a_crumb_that_the_head_cannot_use_is_given_away() {
    let runs = || vec![holds(claim("runs", 1, 4, 0, 1), &[("a1", 1)], 0)];
    let head = || claim("head", 1, 4, 0, 2);
    let crumb = view(vec![node("a1", 5)], runs(), vec![head(), claim("small", 1, 1, 0, 3)]);
    assert_eq!(told(&crumb, 9, "small"), "admit");
    let exact = view(vec![node("a1", 6)], runs(), vec![head(), claim("small", 1, 3, 0, 3)]);
    assert!(told(&exact, 9, "small").contains("behind team-a/head"));
}

#[test]
fn a_quota_is_kept_and_its_queue_too() {
    let quota = |hard: i128, used: i128| Quota {
        name: "gpus".into(),
        hard: Amounts([(format!("requests.{GPU}"), hard * 1000)].into()),
        used: Amounts([(format!("requests.{GPU}"), used * 1000)].into()),
    };
    let waiting = vec![claim("three", 1, 3, 0, 1), claim("one", 1, 1, 0, 2)];
    let mut world = view(vec![node("a1", 8)], vec![], waiting);
    world.quotas.insert("team-a".into(), vec![quota(4, 2)]);
    assert!(told(&world, 9, "three").contains("ResourceQuota gpus allows 4, and 2 is taken"));
    assert!(told(&world, 9, "one").contains("taken or waited for"), "it would starve the other");
    world.quotas.insert("team-a".into(), vec![quota(2, 0)]);
    assert!(told(&world, 9, "three").contains("raise the quota"));
    assert_eq!(told(&world, 9, "one"), "admit");
}

/// A cluster in which time passes: jobs start, run, yield and end.
struct Play {
    view: View,
    /// Steps that each job still has to run.
    left: BTreeMap<String, u32>,
    now: i64,
}

impl Play {
    /// Puts the pods of admitted gangs on nodes, in the order and on the nodes that `dice`
    /// say; every one must find a place.
    fn bind(&mut self, dice: &mut impl FnMut(usize) -> usize) {
        loop {
            let wants = |holder: &Holder| {
                holder.standing != Standing::Leaving
                    && holder.bound.values().sum::<u32>() < holder.claim.gang.pods
            };
            let open: Vec<_> =
                (0..self.view.holders.len()).filter(|i| wants(&self.view.holders[*i])).collect();
            if open.is_empty() {
                return;
            }
            let one = open[dice(open.len())];
            let gang = self.view.holders[one].claim.gang.clone();
            let fits: Vec<String> = self
                .view
                .nodes
                .iter()
                .filter(|node| gang.may_use(node) && self.free(&node.name) >= gang.devices.get(GPU))
                .map(|node| node.name.clone())
                .collect();
            assert!(!fits.is_empty(), "an admitted gang holds a part: {:#?}", self.view.holders);
            let node = fits[dice(fits.len())].clone();
            *self.view.holders[one].bound.entry(node).or_default() += 1;
        }
    }

    fn free(&self, node: &str) -> i128 {
        let has = self.view.nodes.iter().find(|n| n.name == node).unwrap().devices.get(GPU);
        let used = |holder: &Holder| {
            let pods = holder.bound.get(node).copied().unwrap_or(0);
            holder.claim.gang.devices.get(GPU) * i128::from(pods)
        };
        has - self.view.holders.iter().map(used).sum::<i128>()
    }

    /// One round: those that leave are gone, decisions are carried out, pods bound, work done.
    fn round(&mut self, dice: &mut impl FnMut(usize) -> usize) {
        self.now += 100;
        self.view.holders.retain(|holder| holder.standing != Standing::Leaving);
        let decided = decide(&self.view, at(self.now));
        for (job, decision) in &decided.of {
            match decision {
                Decision::Admit => {
                    let found = self.view.waiting.iter().position(|claim| claim.uid == *job);
                    if let Some(found) = found {
                        let claim = self.view.waiting.remove(found);
                        self.view.holders.push(holds(claim, &[], self.now));
                    }
                }
                Decision::Yield(_) => {
                    let holder =
                        self.view.holders.iter_mut().find(|h| h.claim.uid == *job).unwrap();
                    let Standing::Runs(Some(since)) = holder.standing else { panic!("{job}") };
                    assert!(at(self.now).duration_since(since) >= MIN_RUNTIME);
                    holder.standing = Standing::Leaving;
                    self.view.waiting.push(holder.claim.clone());
                }
                Decision::Wait(_) => {}
            }
        }
        self.bind(dice);
        for holder in &self.view.holders {
            *self.left.get_mut(&holder.claim.uid).unwrap() -= 1;
        }
        let left = &self.left;
        self.view.holders.retain(|holder| left[&holder.claim.uid] > 0);
        self.view.waiting.retain(|claim| left[&claim.uid] > 0);
    }
}

type Job = (u32, i128, i64, u32, u8);

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    proptest::collection::vec((1..4_u32, 1..5_i128, 0..3_i64, 1..8_u32, 0..3_u8), 1..12)
}

fn play(nodes: &[(u8, i128)], jobs: &[Job]) -> Play {
    let name = |(at, (pool, _)): (usize, &(u8, i128))| {
        format!("{}{at}", if *pool == 0 { "a" } else { "b" })
    };
    let nodes = nodes.iter().enumerate().map(|n| node(&name(n), n.1.1)).collect();
    let claims: Vec<_> = jobs
        .iter()
        .enumerate()
        .map(|(at, (pods, each, priority, _, pool))| {
            let claim =
                claim(&format!("j{at}"), *pods, *each, *priority, i64::try_from(at).unwrap());
            match pool {
                0 => claim,
                1 => in_pool(claim, "a"),
                _ => in_pool(claim, "b"),
            }
        })
        .collect();
    let left = jobs.iter().enumerate().map(|(at, job)| (format!("j{at}"), job.3)).collect();
    Play { view: view(nodes, vec![], claims), left, now: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn all_that_fit_end_and_no_gang_ever_holds_a_part(
        nodes in proptest::collection::vec((0..2_u8, 1..9_i128), 1..5),
        jobs in jobs(),
        rolls in proptest::collection::vec(0..1000_usize, 64),
    ) {
        let mut play = play(&nodes, &jobs);
        let mut at = 0;
        let mut dice = |sides: usize| {
            at += 1;
            rolls[at % rolls.len()] % sides
        };
        for _ in 0..400 {
            play.round(&mut dice);
        }
        prop_assert!(play.view.holders.is_empty());
        for claim in &play.view.waiting {
            let said = told(&play.view, play.now, &claim.uid);
            prop_assert!(said.contains("even when empty"), "{}: {said}", claim.uid);
        }
    }

    /// The head starts no later for what was let in behind it, whoever of the running ends.
    #[test]
    fn back_fill_never_delays_the_head(
        nodes in proptest::collection::vec((0..2_u8, 1..9_i128), 1..4),
        running in jobs(),
        waiting in jobs(),
        ended in 0..4096_usize,
        rolls in proptest::collection::vec(0..1000_usize, 64),
    ) {
        let mut at = 0;
        let mut dice = |sides: usize| {
            at += 1;
            rolls[at % rolls.len()] % sides
        };
        // All of one priority, so that none yields.
        let flat = |jobs: &[Job]| -> Vec<Job> {
            jobs.iter().map(|job| (job.0, job.1, 0, 9, job.4)).collect()
        };
        let mut base = play(&nodes, &flat(&running));
        base.round(&mut dice);
        let queue = play(&nodes, &flat(&waiting)).view.waiting;
        base.view.waiting = queue
            .into_iter()
            .map(|claim| Claim { uid: format!("w{}", claim.uid), ..claim })
            .collect();
        let decided = decide(&base.view, at_now(&base));
        let fits = |claim: &&Claim| {
            !told(&base.view, base.now, &claim.uid).contains("even when empty")
        };
        let is_let_in = |claim: &Claim| decided.of.get(&claim.uid) == Some(&Decision::Admit);
        let queue = base.view.waiting.clone();
        let Some(head) = queue.iter().filter(fits).position(|claim| !is_let_in(claim)) else {
            return Ok(());
        };
        let ordered: Vec<_> = queue.iter().filter(fits).cloned().collect();
        let (before, behind) = (&ordered[..head], &ordered[head + 1..]);
        let room = |fill: &[Claim], dice: &mut dyn FnMut(usize) -> usize| {
            let mut play = Play { view: base.view.clone(), left: BTreeMap::new(), now: base.now };
            let let_in = fill.iter().filter(|claim| is_let_in(claim));
            play.view.holders.extend(let_in.map(|claim| holds(claim.clone(), &[], 0)));
            play.bind(&mut |sides| dice(sides));
            let mut index = 0;
            play.view.holders.retain(|holder| {
                index += 1;
                holder.claim.uid.starts_with('w') || ended & (1 << index) == 0
            });
            let free: Vec<_> = play.view.nodes.iter().map(|n| play.free(&n.name)).collect();
            let pods = play.view.nodes.iter().zip(free).filter(|(n, _)| ordered[head].gang.may_use(n));
            let each = ordered[head].gang.devices.get(GPU);
            pods.map(|(_, free)| free / each).sum::<i128>().min(ordered[head].gang.pods.into())
        };
        // Only the back-fill differs: nothing of what was let in stands before the head.
        if before.iter().any(is_let_in) {
            return Ok(());
        }
        let without = room(&[], &mut |_| 0);
        let with = room(behind, &mut dice);
        prop_assert!(with >= without, "{with} of {without} pods of the head find room");
    }
}

fn at_now(play: &Play) -> Timestamp {
    at(play.now)
}
