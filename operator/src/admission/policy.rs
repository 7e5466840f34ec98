//! Who starts, who waits and who yields. Pure: the same view gives the same decisions.
//!
//! Order is by priority, then by age. A gang starts when all of its pods find room wherever
//! the scheduler puts them and those of gangs that started a moment ago; so no two gangs
//! ever hold a part of what both need. The first that finds no room in its kind of place is
//! the head there: gangs of lower priority that have had their minimum of time yield to it,
//! and those behind it start only where that cannot make it wait longer, whichever of the
//! running ones end in whichever order.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::amounts::{Amounts, written};
use super::back_fill;
use super::pool::{Free, Gang, Node, settle};

/// Heads whose place is kept at once; behind more of them nothing starts early.
const HEADS: usize = 8;

/// UID of a TrainingJob.
pub type Uid = String;

/// A job as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// UID.
    pub uid: Uid,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Value of its PriorityClass.
    pub priority: i64,
    /// When it was made.
    pub created: Timestamp,
    /// Its pods.
    pub gang: Gang,
}

impl Claim {
    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A job that has devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// The job.
    pub claim: Claim,
    /// How many of its pods each node holds.
    pub bound: BTreeMap<String, u32>,
    /// Pods that are not over, with or without a node.
    pub live: u32,
    /// Whether it goes on.
    pub standing: Standing,
}

/// Whether a holder goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Since when it runs, where it may be asked to yield.
    Runs(Option<Timestamp>),
    /// Its pods save and end.
    Leaving,
}

/// A ResourceQuota.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// Name.
    pub name: String,
    /// The limits.
    pub hard: Amounts,
    /// What is used, as the cluster says.
    pub used: Amounts,
}

/// All that is decided on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Nodes that take pods, less what others than TrainingJobs use.
    pub nodes: Vec<Node>,
    /// By namespace.
    pub quotas: BTreeMap<String, Vec<Quota>>,
    /// Who has devices.
    pub holders: Vec<Holder>,
    /// Who wants to start.
    pub waiting: Vec<Claim>,
    /// Time that a job may run before it is asked to yield.
    pub min_runtime: SignedDuration,
}

/// What a job is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run.
    Admit,
    /// Do not start; why, in a sentence.
    Wait(String),
    /// Save and stop; for whom.
    Yield(String),
}

/// What is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// By UID.
    pub of: BTreeMap<Uid, Decision>,
    /// When time alone may change them.
    pub look_again: Option<Timestamp>,
}

/// Decides.
pub fn decide(view: &View, now: Timestamp) -> Decisions {
    let mut round = Round::new(view, now);
    let mut waiting: Vec<_> = view.waiting.iter().collect();
    waiting.sort_by(|a, b| (-a.priority, a.created, &a.uid).cmp(&(-b.priority, b.created, &b.uid)));
    let mut place = 0;
    for claim in waiting {
        match round.consider(claim) {
            Ok(()) => round.decided.of.insert(claim.uid.clone(), Decision::Admit),
            Err(Held::Never(why)) => {
                round.decided.of.insert(claim.uid.clone(), Decision::Wait(why))
            }
            Err(Held::Now(why)) => {
                place += 1;
                let said = format!("place {} in the queue: {why}", roughly(place));
                round.decided.of.insert(claim.uid.clone(), Decision::Wait(said))
            }
        };
    }
    round.decided
}

/// A place in words that change seldom far behind: each change is a write.
fn roughly(place: usize) -> String {
    match [1000, 500, 200, 100, 50, 20].into_iter().find(|bound| place > *bound) {
        Some(bound) => format!("after {bound}"),
        None => place.to_string(),
    }
}

/// Why a job does not start.
enum Held {
    /// It fits into no part of the cluster, whoever ends.
    Never(String),
    /// It waits for others.
    Now(String),
}

/// Pods that find no room, and whose they are.
struct Head {
    title: String,
    gang: Gang,
}

struct Round<'a> {
    view: &'a View,
    now: Timestamp,
    /// What the nodes have.
    whole: Free,
    /// What no bound pod has.
    free: Free,
    /// Admitted pods without a node, as gangs, and whose they are.
    floating: Vec<(&'a str, Gang)>,
    /// What is charged, by namespace and key, those that wait for their quota included.
    charged: BTreeMap<&'a str, Amounts>,
    /// What live pods of holders count against quotas, by namespace and key.
    live: BTreeMap<&'a str, Amounts>,
    /// Those that found no room, one a kind of place.
    heads: Vec<Head>,
    yielding: Vec<&'a str>,
    decided: Decisions,
}

impl<'a> Round<'a> {
    fn new(view: &'a View, now: Timestamp) -> Self {
        let mut round = Self {
            view,
            now,
            whole: Free::all(&view.nodes),
            free: Free::all(&view.nodes),
            floating: Vec::new(),
            charged: BTreeMap::new(),
            live: BTreeMap::new(),
            heads: Vec::new(),
            yielding: Vec::new(),
            decided: Decisions::default(),
        };
        for holder in &view.holders {
            let Claim { uid, namespace, gang, .. } = &holder.claim;
            round.charged.entry(namespace).or_default().add(&gang.charge, gang.pods.into());
            round.live.entry(namespace).or_default().add(&gang.charge, holder.live.into());
            add_bound(&mut round.free, &view.nodes, holder, -1);
            if holder.standing == Standing::Leaving {
                continue;
            }
            round.decided.of.insert(uid.clone(), Decision::Admit);
            let unbound = gang.pods.saturating_sub(holder.bound.values().sum());
            if unbound > 0 && !gang.devices.is_zero() {
                round.floating.push((uid, Gang { pods: unbound, ..gang.clone() }));
            }
        }
        round.heads = round.stuck();
        round
    }

    /// Running jobs that lost a node, and whose new pods find no room.
    fn stuck(&self) -> Vec<Head> {
        let without_room =
            |(_, gang): &&(&str, Gang)| self.free.room(&self.view.nodes, gang) < gang.pods;
        let head = |(uid, gang): &(&str, Gang)| {
            let holder = self.view.holders.iter().find(|holder| holder.claim.uid == *uid)?;
            Some(Head { title: holder.claim.title(), gang: gang.clone() })
        };
        self.floating.iter().filter(without_room).filter_map(head).collect()
    }

    /// Lets a job in, or says why not.
    fn consider(&mut self, claim: &'a Claim) -> Result<(), Held> {
        let gang = &claim.gang;
        if self.view.holders.iter().any(|holder| holder.claim.uid == claim.uid) {
            return Err(Held::Now("its pods save a checkpoint and end".to_owned()));
        }
        let most = self.whole.room(&self.view.nodes, gang);
        if most < gang.pods {
            return Err(Held::Never(self.unfit(gang, most)));
        }
        self.charge(claim)?;
        if gang.devices.is_zero() {
            return Ok(());
        }
        if self.heads.len() >= HEADS {
            return Err(Held::Now("many larger jobs are before it".to_owned()));
        }
        if let Some(head) = self.heads.iter().find(|head| self.may_delay(head, gang)) {
            let why = format!("behind {}, which needs {}", head.title, head.gang.in_words());
            return Err(Held::Now(why));
        }
        if self.settles(&self.free, gang, &[]) {
            self.floating.push((&claim.uid, gang.clone()));
            return Ok(());
        }
        let why = self.blocked(claim);
        if !self.heads.iter().any(|head| head.gang.same_place(gang)) {
            self.heads.push(Head { title: claim.title(), gang: gang.clone() });
        }
        Err(Held::Now(why))
    }

    fn may_delay(&self, head: &Head, gang: &Gang) -> bool {
        let floating = self.floating.iter().map(|(_, gang)| gang);
        back_fill::may_delay(self.view, &self.free, floating, (&head.gang, gang))
    }

    fn unfit(&self, gang: &Gang, most: u32) -> String {
        let nodes = self.view.nodes.iter().filter(|node| gang.may_use(node)).count();
        format!(
            "it needs {}, and the {nodes} nodes that it may use have room for {most} of them even when empty: ask for less, or add nodes",
            gang.in_words()
        )
    }

    /// Counts the gang against its namespace's quotas. What waits for them is counted too, so
    /// that nothing younger takes what it waits for.
    fn charge(&mut self, claim: &'a Claim) -> Result<(), Held> {
        let gang = &claim.gang;
        let charged = self.charged.entry(&claim.namespace).or_default();
        let before = charged.clone();
        charged.add(&gang.charge, gang.pods.into());
        let ours = self.live.entry(&claim.namespace).or_default();
        for quota in self.view.quotas.get(&claim.namespace).into_iter().flatten() {
            for (key, each) in gang.charge.0.iter().filter(|(_, each)| **each > 0) {
                let Some(hard) = quota.hard.0.get(key) else { continue };
                let others = (quota.used.get(key) - ours.get(key)).max(0);
                let (used, wanted) = (others + before.get(key), each * i128::from(gang.pods));
                if used + wanted <= *hard {
                    continue;
                }
                let why = format!(
                    "it needs {} of {key}; ResourceQuota {} allows {}, and {} is taken or waited for",
                    written(wanted),
                    quota.name,
                    written(*hard),
                    written(used)
                );
                if wanted <= *hard {
                    return Err(Held::Now(why));
                }
                *charged = before;
                return Err(Held::Never(format!("{why}: ask for less, or raise the quota")));
            }
        }
        Ok(())
    }

    /// What the first in its kind of place waits for; asks others to yield.
    fn blocked(&mut self, claim: &'a Claim) -> String {
        let view = self.view;
        let (nodes, gang) = (&view.nodes, &claim.gang);
        let room = self.free.room(nodes, gang);
        let needs = format!("it needs {}", gang.in_words());
        if room == gang.pods {
            return format!("{needs}; there is room once the pods of jobs before it have nodes");
        }
        let mut gone = self.free.clone();
        let goes = |holder: &&Holder| {
            holder.standing == Standing::Leaving
                || self.yielding.contains(&holder.claim.uid.as_str())
        };
        view.holders.iter().filter(goes).for_each(|holder| add_bound(&mut gone, nodes, holder, 1));
        if self.settles(&gone, gang, &self.yielding) {
            return format!("{needs}; the jobs that make room save a checkpoint and end");
        }
        let victims = self.victims(claim, &gone);
        if victims.is_empty() {
            return format!("{needs}, and there is room for {room} now");
        }
        let names: Vec<_> = victims.iter().map(|victim| victim.claim.title()).collect();
        for victim in victims {
            self.yielding.push(&victim.claim.uid);
            let to = format!("{} (priority {})", claim.title(), claim.priority);
            self.decided.of.insert(victim.claim.uid.clone(), Decision::Yield(to));
        }
        format!("{needs}; {} make room for it", names.join(", "))
    }

    /// Whether all of `gang` finds room, wherever pods without a node land, and none of those
    /// finds less for it. Those of `without` are not counted.
    fn settles(&self, free: &Free, gang: &Gang, without: &[&str]) -> bool {
        let floats = |(uid, _): &&(&str, Gang)| !without.contains(uid);
        let others: Vec<&Gang> =
            self.floating.iter().filter(floats).map(|(_, gang)| gang).collect();
        settle(free, &self.view.nodes, gang, &others)
    }

    /// The fewest that need to yield, those of the least priority first and then those that
    /// lose the least time; none where all together do not help, or none may be asked yet.
    fn victims(&mut self, claim: &Claim, free: &Free) -> Vec<&'a Holder> {
        let (view, nodes) = (self.view, &self.view.nodes);
        let mut ripe: Vec<(&'a Holder, Timestamp)> = Vec::new();
        for holder in view.holders.iter().filter(|h| h.claim.priority < claim.priority) {
            let Standing::Runs(Some(since)) = holder.standing else { continue };
            let until = since.saturating_add(self.view.min_runtime).unwrap_or(since);
            if self.yielding.contains(&holder.claim.uid.as_str()) {
                continue;
            }
            if until > self.now {
                let look_again = &mut self.decided.look_again;
                *look_again = Some(look_again.map_or(until, |at| at.min(until)));
                continue;
            }
            ripe.push((holder, since));
        }
        ripe.sort_by_key(|(holder, since)| (holder.claim.priority, std::cmp::Reverse(*since)));
        let enough = |chosen: &[&Holder]| {
            let mut left = free.clone();
            for holder in chosen {
                add_bound(&mut left, nodes, holder, 1);
            }
            let gone = self.yielding.iter().copied();
            let gone: Vec<_> = gone.chain(chosen.iter().map(|h| h.claim.uid.as_str())).collect();
            self.settles(&left, &claim.gang, &gone)
        };
        let mut chosen: Vec<&'a Holder> = Vec::new();
        for (holder, _) in ripe {
            if enough(&chosen) {
                break;
            }
            chosen.push(holder);
        }
        if !enough(&chosen) {
            return Vec::new();
        }
        for at in (0..chosen.len()).rev() {
            let mut fewer = chosen.clone();
            fewer.remove(at);
            if enough(&fewer) {
                chosen = fewer;
            }
        }
        chosen
    }
}

/// Adds what a holder's bound pods have, `times` times: -1 takes it, 1 gives it back.
fn add_bound(free: &mut Free, nodes: &[Node], holder: &Holder, times: i128) {
    for (free, node) in free.0.iter_mut().zip(nodes) {
        let pods = holder.bound.get(&node.name).copied().unwrap_or(0);
        free.add(&holder.claim.gang.devices, times * i128::from(pods));
    }
}
