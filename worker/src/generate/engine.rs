//! The one thread that owns a language model, and the way to it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use llguidance::Matcher;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::compute::Computer;
use super::language::Vocabulary;
use super::metrics::GenerationMetrics;
use super::sampling::{Chosen, Sampler, Sampling};
use super::schedule::{Bounds, Schedule, Stretch, Text};
use super::text::TextStream;
use crate::backlog::{self, can_wait, may_wait};

/// A text that is asked for.
pub struct Request {
    /// Its first tokens; at least one.
    pub prompt: Vec<u32>,
    /// How the others are chosen.
    pub sampling: Sampling,
    /// Texts before the first of which it ends.
    pub stops: Vec<String>,
    /// Most tokens to choose; at least one.
    pub max_tokens: usize,
    /// Whether it goes on behind tokens that end a text.
    pub ignores_end: bool,
    /// What it has to be.
    pub matcher: Option<Matcher>,
    /// Number of the adapters that it is made with.
    pub adapter: Option<usize>,
}

/// What becomes known of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was chosen, and this text is certain now.
    Token {
        /// More text; may be empty.
        text: String,
        /// The token.
        chosen: Chosen,
    },
    /// It is over.
    End {
        /// The rest of its text.
        text: String,
        /// Why.
        reason: EndReason,
        /// Tokens that were chosen.
        chosen: usize,
        /// Tokens of the prompt that were remembered from other texts.
        cached: usize,
    },
    /// It cannot go on.
    Failed(String),
}

/// Why a text is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it, or a stop string or a grammar did.
    Stop,
    /// It has as many tokens as it may.
    Length,
}

/// A text is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It may not wait.
    #[error(transparent)]
    Backlog(#[from] backlog::Refused),
    /// Ever: the prompt leaves no room for a token.
    #[error("the prompt has {tokens} tokens, and this server has room for {room} of a text")]
    Long {
        /// Of the prompt.
        tokens: usize,
        /// Most of a prompt and an answer.
        room: usize,
    },
}

/// Hands texts to the computing thread.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    metrics: Arc<GenerationMetrics>,
    depth: usize,
    room: usize,
}

#[derive(Default)]
struct Inbox {
    new: VecDeque<Text<Job>>,
    /// Texts that the thread has, and that do not run.
    waiting: usize,
    /// Nothing more is made.
    closed: bool,
}

/// What a text is made for, and with.
struct Job {
    sampler: Sampler,
    matcher: Option<Matcher>,
    stream: TextStream,
    left: usize,
    chosen: usize,
    ignores_end: bool,
    adapter: Option<usize>,
    reply: UnboundedSender<Event>,
    arrived: Instant,
    last: Option<Instant>,
}

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Texts that run and tokens of a pass.
    pub schedule: Bounds,
    /// Most texts that wait.
    pub depth: usize,
    /// How long a text that finds nothing running waits for others.
    pub delay: Duration,
}

impl Engine {
    /// Starts the computing thread. It ends after [`Self::close`]; the handle then returns.
    pub fn start(
        computer: Computer,
        vocabulary: Arc<Vocabulary>,
        limits: Limits,
        metrics: Arc<GenerationMetrics>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let schedule = Schedule::new(limits.schedule, computer.blocks());
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            metrics,
            depth: limits.depth,
            room: schedule.capacity().min(vocabulary.context),
        });
        let own = shared.clone();
        let (running, delay) = (limits.schedule.running, limits.delay);
        let mut worker = Worker { shared: own, schedule, computer, vocabulary, running, delay };
        let thread = std::thread::Builder::new().name("compute".to_owned()).spawn(move || {
            let _ends = EndsProcess;
            while worker.step() {}
        })?;
        Ok((Self { shared }, thread))
    }

    /// Most tokens of a text, prompt and answer.
    pub fn room(&self) -> usize {
        self.shared.room
    }

    /// Refuses what could never be made: more texts than may wait, or a prompt without room for an
    /// answer.
    pub fn check(&self, texts: usize, longest_prompt: usize) -> Result<(), Refused> {
        let Shared { depth, room, .. } = *self.shared;
        can_wait(texts, depth)?;
        if longest_prompt >= room {
            return Err(Refused::Long { tokens: longest_prompt, room });
        }
        Ok(())
    }

    /// Asks for texts, all or none of which are made. What they become comes through the channels;
    /// a text whose channel is closed is given up.
    pub fn generate(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<UnboundedReceiver<Event>>, Refused> {
        let room = self.shared.room;
        let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
        self.check(requests.len(), longest)?;
        let (texts, receivers): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| text_of(request, room)).unzip();
        let mut inbox = self.shared.lock();
        if inbox.closed {
            return Err(backlog::Refused::Closed.into());
        }
        may_wait(texts.len(), inbox.waiting + inbox.new.len(), self.shared.depth)?;
        inbox.new.extend(texts);
        drop(inbox);
        self.shared.arrived.notify_one();
        Ok(receivers)
    }

    /// Takes nothing more, and gives up what is not over after the pass that is computed now.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_all();
    }
}

/// Ends the process when the thread that holds it panics: nobody else could answer, and a pod that
/// is gone is started anew.
struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the computing thread panicked; the server ends");
            std::process::exit(1);
        }
    }
}

fn text_of(request: Request, room: usize) -> (Text<Job>, UnboundedReceiver<Event>) {
    let (reply, receiver) = unbounded_channel();
    let job = Job {
        sampler: Sampler::new(request.sampling, &request.prompt),
        matcher: request.matcher,
        stream: TextStream::new(&request.prompt, request.stops),
        left: request.max_tokens.min(room - request.prompt.len()),
        chosen: 0,
        ignores_end: request.ignores_end,
        adapter: request.adapter,
        reply,
        arrived: Instant::now(),
        last: None,
    };
    // With other adapters, the same tokens have other keys and values.
    let kind = request.adapter.map_or_else(String::new, |number| number.to_string());
    (Text::new(request.prompt, &kind, job), receiver)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The computing thread's own.
struct Worker {
    shared: Arc<Shared>,
    schedule: Schedule<Job>,
    computer: Computer,
    vocabulary: Arc<Vocabulary>,
    running: usize,
    delay: Duration,
}

impl Worker {
    /// One pass; false once nothing is to be done any more.
    fn step(&mut self) -> bool {
        if !self.receive() {
            return false;
        }
        self.schedule.retain(|job| !job.reply.is_closed());
        let plan = self.schedule.plan();
        if !plan.is_empty() {
            self.pass(&plan);
        }
        self.tell();
        true
    }

    /// Computes what is planned, and goes on with what it chose.
    fn pass(&mut self, plan: &[Stretch]) {
        self.shared.metrics.pass(plan.iter().map(|stretch| stretch.count).sum());
        match self.computer.logits(&self.schedule, plan, |job| job.adapter) {
            Ok(mut logits) => {
                self.schedule.computed(plan);
                self.choose(plan, &mut logits);
            }
            Err(error) => {
                let why = crate::agent::service::chain(&error);
                tracing::error!("{why}");
                self.fail(plan, &why);
            }
        }
    }

    /// Takes what arrived; waits where there is nothing to do.
    fn receive(&mut self) -> bool {
        let mut inbox = self.shared.lock();
        if self.schedule.is_empty() {
            while inbox.new.is_empty() && !inbox.closed {
                inbox = self.shared.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            let alone = |inbox: &mut Inbox| inbox.new.len() < self.running && !inbox.closed;
            let waited = self.shared.arrived.wait_timeout_while(inbox, self.delay, alone);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if inbox.closed {
            return false;
        }
        for text in inbox.new.drain(..) {
            self.schedule.add(text);
        }
        inbox.waiting = self.schedule.waiting();
        true
    }

    fn tell(&self) {
        self.shared.lock().waiting = self.schedule.waiting();
        let (running, waiting) = (self.schedule.running().len(), self.schedule.waiting());
        let (tokens, used) = (self.schedule.tokens(), self.schedule.used());
        self.shared.metrics.state(running, waiting, tokens, used);
    }

    /// Chooses the next token of each text that has come to its end; `logits` are theirs, in the
    /// order of the plan.
    fn choose(&mut self, plan: &[Stretch], logits: &mut [Vec<f32>]) {
        let mut over = Vec::new();
        let choosing = plan.iter().filter(|stretch| stretch.chooses);
        for (stretch, logits) in choosing.zip(logits) {
            let text = self.schedule.text(stretch.text);
            let cached = text.cached.unwrap_or(0);
            let prompt = stretch.start + stretch.count;
            let job = &mut text.of;
            self.shared.metrics.token(job.arrived, job.last, prompt, cached);
            job.last = Some(Instant::now());
            match job.next(logits, &self.vocabulary, cached) {
                Next::Goes(token) => text.tokens.push(token),
                Next::Ends => over.push(stretch.text),
            }
        }
        self.end(over);
    }

    fn fail(&mut self, plan: &[Stretch], why: &str) {
        for stretch in plan {
            let failed = Event::Failed(why.to_owned());
            let _ = self.schedule.text(stretch.text).of.reply.send(failed);
        }
        self.end(plan.iter().map(|stretch| stretch.text).collect());
    }

    /// Ends running texts, the later ones first: the others move up.
    fn end(&mut self, mut texts: Vec<usize>) {
        texts.sort_unstable();
        for text in texts.into_iter().rev() {
            self.schedule.end(text);
        }
    }
}

/// Whether a text goes on.
enum Next {
    Goes(u32),
    Ends,
}

impl Job {
    /// Chooses a token and tells of it.
    fn next(&mut self, logits: &mut [f32], vocabulary: &Vocabulary, cached: usize) -> Next {
        match self.try_next(logits, vocabulary, cached) {
            Ok(next) => next,
            Err(why) => {
                let _ = self.reply.send(Event::Failed(why));
                Next::Ends
            }
        }
    }

    fn try_next(
        &mut self,
        logits: &mut [f32],
        vocabulary: &Vocabulary,
        cached: usize,
    ) -> Result<Next, String> {
        let mask = self.matcher.as_mut().map(Matcher::compute_mask_or_eos).transpose();
        let mask = mask.map_err(|error| format!("the grammar failed: {error:#}"))?;
        let chosen = self.sampler.choose(logits, |logits| {
            if let Some(mask) = &mask {
                mask.iter_unset_entries(|token| {
                    if let Some(logit) = logits.get_mut(token) {
                        *logit = f32::NEG_INFINITY;
                    }
                });
            }
        });
        let id = chosen.id;
        self.chosen += 1;
        self.left -= 1;
        if vocabulary.ends.contains(&id) && !self.ignores_end {
            return Ok(self.over(EndReason::Stop, vocabulary, cached));
        }
        if let Some(matcher) = &mut self.matcher {
            matcher.consume_token(id).map_err(|error| format!("the grammar failed: {error:#}"))?;
        }
        let grown = self.stream.push(&vocabulary.tokenizer, id);
        let grown = grown.map_err(|error| format!("a token has no text: {error}"))?;
        let _ = self.reply.send(Event::Token { text: grown.text, chosen });
        if grown.stopped || self.matcher.as_ref().is_some_and(Matcher::is_stopped) {
            return Ok(self.over(EndReason::Stop, vocabulary, cached));
        }
        if self.left == 0 {
            return Ok(self.over(EndReason::Length, vocabulary, cached));
        }
        Ok(Next::Goes(id))
    }

    fn over(&mut self, reason: EndReason, vocabulary: &Vocabulary, cached: usize) -> Next {
        let text = self.stream.finish(&vocabulary.tokenizer).unwrap_or_default();
        let _ = self.reply.send(Event::End { text, reason, chosen: self.chosen, cached });
        Next::Ends
    }
}
