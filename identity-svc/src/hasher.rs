//! Argon2id, off the async runtime and behind a bounded queue, so that a storm of logins slows logins alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use contract::{ErrorCode, Failure, Outcome};
use prometheus::{Histogram, IntCounterVec, IntGauge};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::shares::{Share, Shares};

/// What one hash costs (OWASP Password Storage: at least 19 MiB and two passes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub iterations: u32,
}

/// Most calls of one account at once, which are more than its owner has devices that sign in at the same moment: whoever knows
/// its password could take every place.
const PER_ACCOUNT: usize = 8;

/// How much hashing yields, as `nice` counts: a third of the time of a core that others want as well, so that nobody is kept
/// from signing in either.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Hashes and verifies passwords. Cheap to clone.
#[derive(Clone)]
pub struct Hasher {
    argon2: Argon2<'static>,
    cost: Cost,
    /// As many hashes at once as there are cores.
    cores: Arc<Semaphore>,
    /// Places for those that wait or run; there is no further queue.
    places: Arc<Semaphore>,
    all_places: usize,
    shares: Shares,
    /// Most calls of one address at once; 0: any number.
    per_address: usize,
    /// The place of the call that this one hashes for; without one, each hash takes one for itself.
    turn: Option<Arc<Turn>>,
    /// Hashes that need more memory than ours are verified one at a time.
    dear: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    memory: Memory,
    /// What is verified when there is no account, so that it takes as long as when there is one.
    nobody: Arc<str>,
    /// The hash of a random password, made when it is first needed.
    unusable: Arc<OnceCell<String>>,
}

/// A place, and the shares of those whose it is.
struct Turn {
    _place: OwnedSemaphorePermit,
    _address: Option<Share>,
    account: OnceLock<Share>,
}

/// Why hashing cannot start.
#[derive(Debug, thiserror::Error)]
#[error("Argon2id does not accept its parameters: {0}")]
pub struct BadCost(String);

/// The outcome of verifying a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// Right, but hashed at a lower cost than now.
    RightButWeak,
    Wrong,
}

impl Hasher {
    /// # Errors
    /// When the parameters are outside what Argon2 allows.
    pub fn new(cost: Cost, queue: usize, per_address: usize) -> Result<Self, BadCost> {
        let params =
            Params::new(cost.memory_kib, cost.iterations, 1, None).map_err(|e| BadCost(e.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Hasher {
            argon2,
            cost,
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(queue + cores)),
            all_places: queue + cores,
            shares: Shares::default(),
            per_address,
            turn: None,
            dear: Arc::new(Semaphore::new(1)),
            waiting: Arc::default(),
            memory: Memory::default(),
            nobody: nobody(cost).map_err(|e| BadCost(e.to_string()))?.into(),
            unusable: Arc::default(),
        })
    }

    /// A hasher for one call from an address, which has its place from now on, until it is dropped and its last hash is done.
    /// Whoever takes it first waits for nothing else, such as the database, among more than there are places.
    ///
    /// # Errors
    /// GW003 when the address, or all together, have as many as they may.
    pub fn turn(&self, network: Option<&str>) -> Outcome<Hasher> {
        let network = network.filter(|_| self.per_address > 0);
        let address = network.map(|network| self.share("address", network, self.per_address)).transpose()?;
        Ok(Hasher { turn: Some(Arc::new(self.place(address)?)), ..self.clone() })
    }

    /// As [`turn`](Hasher::turn), for a call about an account.
    ///
    /// # Errors
    /// GW003 when the account has as many as it may as well.
    pub fn turn_of(&self, account: &str, network: Option<&str>) -> Outcome<Hasher> {
        let hasher = self.turn(network)?;
        hasher.count_for(account)?;
        Ok(hasher)
    }

    /// Has this call be one of an account's from now on.
    ///
    /// # Errors
    /// GW003 when the account has as many as it may.
    pub fn count_for(&self, account: &str) -> Outcome<()> {
        if let Some(turn) = &self.turn {
            let share = self.share("account", account, PER_ACCOUNT)?;
            turn.account.get_or_init(|| share);
        }
        Ok(())
    }

    /// One of the shares of an account or address, which are smaller the fewer places are left: so it takes many of them to
    /// leave nobody else a place.
    fn share(&self, kind: &str, whose: &str, most: usize) -> Outcome<Share> {
        let free = self.places.available_permits();
        let most = match free * 4 / self.all_places.max(1) {
            0 => 1,
            1 => most.min(2),
            _ => most,
        };
        self.shares.take(format!("{kind}\n{whose}"), most).ok_or_else(|| refused("share"))
    }

    fn place(&self, address: Option<Share>) -> Outcome<Turn> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| refused("queue"))?;
        Ok(Turn { _place: place, _address: address, account: OnceLock::new() })
    }

    /// The PHC string of a password, with a salt of its own.
    ///
    /// # Errors
    /// GW003 when too many already wait.
    pub async fn hash(&self, password: SecretString) -> Outcome<String> {
        let argon2 = self.argon2.clone();
        self.run(move |memory| hash_now(&argon2, password.expose_secret().as_bytes(), memory)).await?
    }

    /// The hash of a password that nobody knows: to verify it costs what every other does. Accounts may share it, since
    /// there is nothing to be learnt from one about another.
    ///
    /// # Errors
    /// GW003 when too many already wait.
    pub async fn unusable(&self) -> Outcome<String> {
        let made = self.unusable.get_or_try_init(async || {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::internal("no randomness"))?;
            let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.hash(password.into()).await
        });
        made.await.cloned()
    }

    /// Compares a password with a stored hash, or does the same work in vain when there is none.
    ///
    /// # Errors
    /// GW003 when too many already wait; SRV001 when the stored hash cannot be read.
    pub async fn verify(&self, password: SecretString, stored: Option<String>) -> Outcome<Verdict> {
        let (cost, nobody) = (self.cost, self.nobody.clone());
        let alone = match &stored {
            Some(stored) if needs_more_memory(stored, cost) => {
                Some(self.dear.clone().acquire_owned().await.map_err(Failure::internal)?)
            }
            _ => None,
        };
        self.run(move |memory| {
            let _alone = alone;
            let known = stored.is_some();
            let text = stored.as_deref().unwrap_or(&nobody);
            let hash = PasswordHash::new(text).map_err(|e| Failure::internal(e.to_string()))?;
            let right = is_right(password.expose_secret().as_bytes(), &hash, memory)?;
            Ok(match (right && known, is_weaker(&hash, cost)) {
                (false, _) => Verdict::Wrong,
                (true, true) => Verdict::RightButWeak,
                (true, false) => Verdict::Right,
            })
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Option<&mut [Block]>) -> T + Send + 'static,
    ) -> Outcome<T> {
        let turn = match &self.turn {
            Some(turn) => turn.clone(),
            None => Arc::new(self.place(None)?),
        };
        let waiter = Waiter::new(self.waiting.clone());
        let core = self.cores.clone().acquire_owned().await;
        drop(waiter);
        let core = core.map_err(Failure::internal)?;
        let timer = METRICS.seconds.start_timer();
        let hasher = self.clone();
        // Both are held until it is done, also when nobody wants the answer any more.
        let done = tokio::task::spawn_blocking(move || {
            yield_to_others();
            let mut memory = hasher.memory.take().or_else(|| hasher.is_awaited().then(|| hasher.blocks()));
            let value = work(memory.as_deref_mut());
            hasher.memory.put(memory, hasher.is_awaited());
            drop((core, turn));
            value
        });
        let value = done.await.map_err(Failure::internal)?;
        timer.observe_duration();
        Ok(value)
    }

    /// Whether somebody waits for a core.
    fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn blocks(&self) -> Vec<Block> {
        vec![Block::default(); self.argon2.params().block_count()]
    }
}

fn refused(reason: &str) -> Failure {
    METRICS.refused.with_label_values(&[reason]).inc();
    Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))
}

/// Lets everything else that wants the core go first, on this thread from now on: nobody notices another 15 ms of those who
/// sign in, and everybody notices them before each answer. Elsewhere than on Linux it would be said of the whole process.
fn yield_to_others() {
    // A thread that yields even more already may not take that back, nor should it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Somebody who waits for a core, until it is dropped.
struct Waiter(Arc<AtomicUsize>);

impl Waiter {
    fn new(waiting: Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        METRICS.waiting.inc();
        Waiter(waiting)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        METRICS.waiting.dec();
    }
}

/// The memory of hashes, handed from one to another that waits: to have it from the system each time is a fifth of the
/// work. When nobody waits it is given back, so that a quiet process holds none.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<Vec<Block>>>>);

impl Memory {
    fn take(&self) -> Option<Vec<Block>> {
        self.spare().pop()
    }

    fn put(&self, memory: Option<Vec<Block>>, is_awaited: bool) {
        let unused = if is_awaited {
            self.spare().extend(memory);
            Vec::new()
        } else {
            std::mem::take(&mut *self.spare())
        };
        // Not under the lock: to give it back takes a while.
        drop(unused);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash_now(argon2: &Argon2<'_>, password: &[u8], memory: Option<&mut [Block]>) -> Outcome<String> {
    let (mut salt, mut output) = ([0; 16], [0; Params::DEFAULT_OUTPUT_LEN]);
    SystemRandom::new().fill(&mut salt).map_err(|_| Failure::internal("no randomness"))?;
    digest(argon2, password, &salt, &mut output, memory)?;
    let fault = |e: argon2::password_hash::phc::Error| Failure::internal(e.to_string());
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).map_err(|e| Failure::internal(e.to_string()))?,
        salt: Some(Salt::new(&salt).map_err(fault)?),
        hash: Some(Output::new(&output).map_err(fault)?),
    };
    Ok(hash.to_string())
}

/// Whether a password has a hash, which may be of another kind and cost than ours.
fn is_right(password: &[u8], hash: &PasswordHash, memory: Option<&mut [Block]>) -> Outcome<bool> {
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return Ok(false) };
    let fault = |e: argon2::password_hash::Error| Failure::internal(e.to_string());
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(fault)?;
    let version = hash.version.map(Version::try_from).transpose();
    let version = version.map_err(|e| Failure::internal(e.to_string()))?.unwrap_or_default();
    let argon2 = Argon2::new(algorithm, version, Params::try_from(hash).map_err(fault)?);
    let mut output = vec![0; expected.len()];
    digest(&argon2, password, salt, &mut output, memory)?;
    // Outputs are compared in constant time.
    Output::new(&output).map(|output| output == *expected).map_err(|e| Failure::internal(e.to_string()))
}

fn digest(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    output: &mut [u8],
    memory: Option<&mut [Block]>,
) -> Outcome<()> {
    let done = match memory {
        Some(memory) if memory.len() >= argon2.params().block_count() => {
            argon2.hash_password_into_with_memory(password, salt, output, memory)
        }
        _ => argon2.hash_password_into(password, salt, output),
    };
    done.map_err(|e| Failure::internal(e.to_string()))
}

/// What a hash of this cost looks like. To verify it takes as long as for any other, and comes to nothing; a true one
/// would cost each start its time, and the process its memory from then on.
fn nobody(cost: Cost) -> Outcome<String> {
    let (mut salt, mut output) = ([0; 16], [0; 32]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and(random.fill(&mut output)).map_err(|_| Failure::internal("no randomness"))?;
    let Cost { memory_kib, iterations } = cost;
    let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output));
    Ok(format!("$argon2id$v=19$m={memory_kib},t={iterations},p=1${salt}${output}"))
}

fn is_weaker(hash: &PasswordHash, cost: Cost) -> bool {
    let parameter = |name| hash.params.get_decimal(name).unwrap_or(0);
    hash.algorithm.as_str() != "argon2id"
        || parameter("m") < cost.memory_kib
        || parameter("t") < cost.iterations
}

fn needs_more_memory(stored: &str, cost: Cost) -> bool {
    PasswordHash::new(stored).is_ok_and(|hash| hash.params.get_decimal("m").unwrap_or(0) > cost.memory_kib)
}

struct Metrics {
    waiting: IntGauge,
    refused: IntCounterVec,
    seconds: Histogram,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    waiting: prometheus::register_int_gauge!("identity_password_hash_waiting", "Hashes that wait for a core")
        .unwrap_or_else(|e| unreachable!("registered once: {e}")),
    refused: refusals().unwrap_or_else(|e| unreachable!("registered once: {e}")),
    seconds: prometheus::register_histogram!(
        "identity_password_hash_seconds",
        "Duration of one Argon2id hash"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}")),
});

fn refusals() -> prometheus::Result<IntCounterVec> {
    let refused = prometheus::register_int_counter_vec!(
        "identity_password_hashes_refused_total",
        "Hashes that were refused because too many waited (queue), or too many of one account or address (share)",
        &["reason"]
    )?;
    // From nought, so that the first refusal is a rise.
    for reason in ["queue", "share"] {
        refused.with_label_values(&[reason]);
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, iterations: 1 };

    #[tokio::test]
    async fn a_password_is_right_weak_or_wrong() {
        let cheap = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        let stored = cheap.hash("a password".into()).await.expect("a hash");
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        assert_eq!(
            cheap.verify("a password".into(), Some(stored.clone())).await.expect("ran"),
            Verdict::Right
        );
        assert_eq!(cheap.verify("another".into(), Some(stored.clone())).await.expect("ran"), Verdict::Wrong);
        let dear = Hasher::new(Cost { memory_kib: 128, iterations: 2 }, 4, 0).expect("a hasher");
        assert_eq!(dear.verify("a password".into(), Some(stored)).await.expect("ran"), Verdict::RightButWeak);
    }

    #[tokio::test]
    async fn nobodys_password_is_never_right_and_costs_what_others_do() {
        let hasher = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        let verdict = hasher.verify("nobody has this password".into(), None).await.expect("ran");
        assert_eq!(verdict, Verdict::Wrong);
        let somebodys = hasher.hash("a password".into()).await.expect("a hash");
        let shape = |text: &str| {
            let hash = PasswordHash::new(text).expect("a hash");
            let length = |part: Option<usize>| part.expect("a part");
            let (salt, output) = (hash.salt.map(|salt| salt.len()), hash.hash.map(|output| output.len()));
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), length(salt), length(output))
        };
        assert_eq!(shape(&hasher.nobody), shape(&somebodys));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hashing_lets_everything_else_go_first() {
        let nice = || rustix::process::getpriority_process(None).expect("a priority");
        let before = nice();
        let hasher = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        assert_eq!(hasher.run(move |_| nice()).await.expect("ran"), before.max(NICE));
        assert_eq!(nice(), before, "nobody else yields");
    }

    #[tokio::test]
    async fn memory_goes_from_hash_to_hash_while_somebody_waits_and_changes_no_verdict() {
        let hasher = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        let spare = || hasher.memory.spare().len();
        let mut stored = vec![hasher.hash("a password".into()).await.expect("a hash")];
        // Of others, which need less memory than is handed on, and more.
        for memory_kib in [32, 128] {
            let other = Hasher::new(Cost { memory_kib, iterations: 2 }, 4, 0).expect("a hasher");
            stored.push(other.hash("a password".into()).await.expect("a hash"));
        }
        assert_eq!(spare(), 0, "nobody waited");
        let waiter = Waiter::new(hasher.waiting.clone());
        for stored in stored.iter().cycle().take(9) {
            let verdict = |password: &str| hasher.verify(password.into(), Some(stored.clone()));
            assert_ne!(verdict("a password").await.expect("ran"), Verdict::Wrong, "{stored}");
            assert_eq!(verdict("another").await.expect("ran"), Verdict::Wrong, "{stored}");
            assert_eq!(spare(), 1, "each had that of the one before");
        }
        let made = hasher.hash("another".into()).await.expect("a hash");
        drop(waiter);
        assert_eq!(hasher.verify("another".into(), Some(made)).await.expect("ran"), Verdict::Right);
        assert_eq!(spare(), 0, "nobody waits any more");
    }

    #[tokio::test]
    async fn a_full_queue_says_come_back_later() {
        let hasher = Hasher::new(CHEAP, 1, 0).expect("a hasher");
        let _all =
            hasher.places.acquire_many(hasher.places.available_permits() as u32).await.expect("places");
        let refused = hasher.hash("a password".into()).await.expect_err("refused");
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert!(refused.wait().is_some());
    }

    #[tokio::test]
    async fn neither_an_account_nor_an_address_has_every_place() {
        let hasher = Hasher::new(CHEAP, 100, 3).expect("a hasher");
        let turn = |account: &'static str, network: &'static str| hasher.turn_of(account, Some(network));
        let networks = ["one", "two", "two", "two", "three", "three", "three", "five"];
        assert_eq!(networks.len(), PER_ACCOUNT);
        let mut turns: Vec<_> = networks.into_iter().map(|place| turn("a", place).expect("a turn")).collect();
        let refused = turn("a", "six").err().expect("refused");
        assert_eq!((refused.code(), refused.wait()), (ErrorCode::Overloaded, Some(Duration::from_secs(1))));
        turns.extend([turn("b", "one").expect("a turn"), turn("c", "one").expect("a turn")]);
        assert!(turn("d", "one").is_err(), "a fourth of one address");
        // What was refused has taken nothing.
        assert!(turn("d", "four").is_ok() && turn("d", "four").is_ok());
        turns.clear();
        assert!(turn("a", "one").is_ok());
        assert_eq!(hasher.places.available_permits(), 100 + hasher.cores.available_permits());
    }

    #[tokio::test]
    async fn the_fewer_places_are_left_the_smaller_is_each_share_of_them() {
        let hasher = Hasher::new(CHEAP, 100, 8).expect("a hasher");
        let all = hasher.places.available_permits();
        let names: Vec<String> = (0..all).map(|number| number.to_string()).collect();
        // Each takes as many as it may.
        let mut turns = Vec::new();
        let takers = names.iter().take_while(|name| {
            turns.extend(std::iter::from_fn(|| hasher.turn_of(name, Some(name)).ok()));
            hasher.places.available_permits() > 0
        });
        let takers = takers.count() + 1;
        assert!(turns.len() == all && takers > 40, "{takers} of {all}");
    }

    #[tokio::test]
    async fn who_asks_for_more_than_a_share_is_counted_apart_from_a_full_queue() {
        let refused = |reason: &str| METRICS.refused.with_label_values(&[reason]).get();
        let (shares, queue) = (refused("share"), refused("queue"));
        let hasher = Hasher::new(CHEAP, 1, 1).expect("a hasher");
        let all = hasher.places.acquire_many(hasher.places.available_permits() as u32).await.expect("places");
        assert!(hasher.turn(Some("one")).is_err());
        // Other tests are refused, too.
        assert!(refused("queue") > queue);
        drop(all);
        let _turn = hasher.turn(Some("one")).expect("a turn");
        assert!(hasher.turn(Some("one")).is_err());
        assert!(refused("share") > shares);
    }

    #[tokio::test]
    async fn whoever_goes_away_has_the_place_until_the_hash_is_done() {
        let hasher = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        let free = hasher.places.available_permits();
        let (began, has_begun) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let turn = hasher.turn_of("a", None).expect("a turn");
        let call = tokio::spawn(async move {
            turn.run(move |_| {
                began.send(()).expect("somebody waits");
                wait.recv().expect("told to go on");
            })
            .await
        });
        tokio::task::spawn_blocking(move || has_begun.recv().expect("begun")).await.expect("ran");
        call.abort();
        assert!(call.await.expect_err("given up").is_cancelled());
        assert_eq!(hasher.places.available_permits(), free - 1);
        go_on.send(()).expect("it runs");
        while hasher.places.available_permits() < free {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_needs_more_memory_than_ours_is_verified_one_at_a_time() {
        let hasher = Hasher::new(CHEAP, 4, 0).expect("a hasher");
        let other = Hasher::new(Cost { memory_kib: 128, iterations: 1 }, 4, 0).expect("a hasher");
        let dear = other.hash("a password".into()).await.expect("a hash");
        let cheap = hasher.hash("a password".into()).await.expect("a hash");
        let alone = hasher.dear.clone().acquire_owned().await.expect("alone");
        let mut waiting = std::pin::pin!(hasher.verify("a password".into(), Some(dear)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(hasher.verify("a password".into(), Some(cheap)).await.expect("ran"), Verdict::Right);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(alone);
        assert_eq!(waiting.await.expect("ran"), Verdict::Right);
    }
}
