//! Proxied requests: the edge beside HAProxy and nginx, in rounds whose order turns around each time.

use super::check;
use super::peers::{self, GET_PATH, POST_PATH};
use super::report::{FIRST_SIGHT, P99_8, P99_64, PLAIN, SEEN, TWO_CORES, median};
use super::stage::{Server, Stage};
use super::wrk::Load;
use crate::Outcome;

/// As whom the figures of a peer are shown.
const EDGE: &str = "edge";
const HAPROXY: &str = "HAProxy with JWT";

/// What a peer used and achieved in one round.
#[derive(Clone, Copy)]
pub struct Sample {
    /// CPU of the proxy per request, in microseconds.
    pub cpu: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
    memory: f64,
}

/// Those who do the same work, in a fixed order.
struct Field {
    peers: Vec<(&'static str, Server)>,
}

impl Field {
    /// The edge and HAProxy with JWT; with those that only forward, too, when they are wanted.
    async fn enter(stage: &Stage, with_plain: bool) -> Outcome<Field> {
        let (cores, upstream) = (stage.cores, stage.upstream.address);
        let edge = stage.edge("edge", &[cores.tested], &[]).await?;
        let haproxy = peers::haproxy_with_jwt(cores, upstream, &stage.mint.secret).await?;
        let mut peers = vec![(EDGE, edge), (HAPROXY, haproxy)];
        for (name, server) in &peers {
            check::verifies(name, server, &stage.mint).await?;
        }
        if with_plain {
            for plain in [
                ("HAProxy plain", peers::plain_haproxy("haproxy-plain", cores, upstream).await?),
                ("nginx plain", peers::plain_nginx(cores, upstream).await?),
            ] {
                check::forwards(plain.0, &plain.1, &stage.mint).await?;
                peers.push(plain);
            }
        }
        Ok(Field { peers })
    }

    /// Measures all peers in turn, the order reversed in each other round.
    async fn rounds(&self, stage: &Stage, what: &str, rounds: usize, load: &Load) -> Outcome<Rounds> {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); self.peers.len()];
        for round in 0..rounds {
            let title = format!("{what}, round {} of {rounds}", round + 1);
            let measured = stage.referee.round(&title, async || self.round(round, load).await).await?;
            for (place, sample) in measured {
                samples[place].push(sample);
            }
            println!("  {title}: {}", shares(&samples));
        }
        Ok(Rounds { names: self.peers.iter().map(|(name, _)| *name).collect(), samples })
    }

    async fn round(&self, round: usize, load: &Load) -> Outcome<Vec<(usize, Sample)>> {
        let mut order: Vec<usize> = (0..self.peers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut measured = Vec::new();
        for place in order {
            measured.push((place, sample(&self.peers[place].1, load).await?));
        }
        Ok(measured)
    }

    async fn leave(self) -> Outcome {
        for (_, server) in self.peers {
            server.stop().await?;
        }
        Ok(())
    }
}

/// Loads one peer and sees what it takes.
pub async fn sample(server: &Server, load: &Load) -> Outcome<Sample> {
    if !load.once {
        load.warm(&server.authority()).await?;
    }
    let before = server.cpu_seconds()?;
    let counted = load.run(&server.authority()).await?;
    let cpu = (server.cpu_seconds()? - before) / counted.requests * 1e6;
    let per_second = counted.requests / counted.seconds;
    let memory = server.resident_kib()? / 1024.0;
    Ok(Sample { cpu, per_second, p50: counted.p50_ms, p99: counted.p99_ms, memory })
}

/// The latest round as CPU ÷ HAProxy with JWT, which stands in the second place.
fn shares(samples: &[Vec<Sample>]) -> String {
    let last = |of: &[Sample]| of.last().map_or(f64::NAN, |sample| sample.cpu);
    let base = samples.get(1).map_or(f64::NAN, |of| last(of));
    let shares: Vec<_> = samples.iter().map(|of| format!("{:.2}", last(of) / base)).collect();
    format!("CPU ÷ HAProxy with JWT {}", shares.join(", "))
}

struct Rounds {
    names: Vec<&'static str>,
    /// One list for each peer, one sample in it for each round.
    samples: Vec<Vec<Sample>>,
}

impl Rounds {
    fn place(&self, name: &str) -> usize {
        self.names.iter().position(|known| *known == name).unwrap_or_default()
    }

    fn median(&self, name: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples[self.place(name)].iter().map(of).collect::<Vec<_>>())
    }

    /// The median, over the rounds, of one peer's figure divided by another's in the same round.
    fn ratio(&self, one: &str, other: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        let pairs = self.samples[self.place(one)].iter().zip(&self.samples[self.place(other)]);
        median(&pairs.map(|(one, other)| of(one) / of(other)).collect::<Vec<_>>())
    }

    /// What is known of every peer.
    fn tell(&self, stage: &mut Stage, what: &str) {
        for name in &self.names {
            let mut add = |figure, value| stage.report.add(format!("{what}: {name}: {figure}"), value);
            add("CPU per request, µs", self.median(name, |sample| sample.cpu));
            add("CPU ÷ HAProxy with JWT", self.ratio(name, HAPROXY, |sample| sample.cpu));
            add("requests a second", self.median(name, |sample| sample.per_second));
            add("p50, ms", self.median(name, |sample| sample.p50));
            add("p99, ms", self.median(name, |sample| sample.p99));
            add("memory, MiB", self.median(name, |sample| sample.memory));
        }
    }
}

/// GETs with the tokens of as many users as there are connections, over and over.
pub fn get_load(stage: &Stage) -> Outcome<Load> {
    Ok(Load {
        method: "GET",
        path: GET_PATH,
        tokens: stage.mint.file("tokens", 64)?,
        once: false,
        body_bytes: 0,
        connections: 64,
        seconds: stage.choose(4, 1),
        refused: false,
    })
}

/// Tokens that were seen before, with 64 connections and with 8.
pub async fn get(stage: &mut Stage) -> Outcome {
    let field = Field::enter(stage, true).await?;
    let load = get_load(stage)?;
    let rounds = field.rounds(stage, "GET", stage.choose(9, 1), &load).await?;
    rounds.tell(stage, "GET, 64 connections");
    stage.report.add(SEEN, rounds.ratio(EDGE, HAPROXY, |sample| sample.cpu));
    stage.report.add(PLAIN, rounds.ratio(EDGE, "nginx plain", |sample| sample.cpu));
    stage.report.add(P99_64, rounds.ratio(EDGE, HAPROXY, |sample| sample.p99));

    let few = Load { connections: 8, ..load };
    let rounds = field.rounds(stage, "GET, 8 connections", stage.choose(5, 1), &few).await?;
    rounds.tell(stage, "GET, 8 connections");
    stage.report.add(P99_8, rounds.ratio(EDGE, HAPROXY, |sample| sample.p99));
    field.leave().await
}

/// Each token once, at proxies that were started for the round.
pub async fn first_sight(stage: &mut Stage) -> Outcome {
    // More than can be used up in the time: wrk goes on measuring it after the last one.
    let (count, rounds) = (stage.choose(120_000, 40_000), stage.choose(5, 1));
    let warmth = get_load(stage)?;
    let load = warmth.with_tokens(&stage.mint.file("first-sight", count)?);
    let load = Load { once: true, seconds: stage.choose(3, 1), ..load };
    let mut all = Rounds { names: vec![EDGE, HAPROXY], samples: vec![Vec::new(), Vec::new()] };
    for round in 0..rounds {
        let title = format!("first sight, round {} of {rounds}", round + 1);
        let afresh = async || {
            let field = Field::enter(stage, false).await?;
            for (_, server) in &field.peers {
                warmth.warm(&server.authority()).await?;
            }
            let measured = field.round(round, &load).await?;
            field.leave().await?;
            Ok(measured)
        };
        for (place, sample) in stage.referee.round(&title, afresh).await? {
            all.samples[place].push(sample);
        }
        println!("  {title}: {}", shares(&all.samples));
    }
    all.tell(stage, "GET, first sight");
    stage.report.add(FIRST_SIGHT, all.ratio(EDGE, HAPROXY, |sample| sample.cpu));
    Ok(())
}

/// A body of 4 KiB.
pub async fn post(stage: &mut Stage) -> Outcome {
    let field = Field::enter(stage, true).await?;
    let load = Load { method: "POST", path: POST_PATH, body_bytes: 4096, ..get_load(stage)? };
    let rounds = field.rounds(stage, "POST of 4 KiB", stage.choose(5, 1), &load).await?;
    rounds.tell(stage, "POST of 4 KiB");
    field.leave().await
}

/// A signature that is not ours: 401, and nothing goes further.
pub async fn bad_token(stage: &mut Stage) -> Outcome {
    let field = Field::enter(stage, false).await?;
    let load = Load { refused: true, ..get_load(stage)? }.with_tokens(&stage.mint.bad_file("bad-token")?);
    let rounds = field.rounds(stage, "401", stage.choose(5, 1), &load).await?;
    rounds.tell(stage, "401 on a bad token");
    field.leave().await
}

/// The edge with one worker thread against the edge with two. The load generator needs one of two cores itself, so
/// that the throughput of two says nothing: what two cores could do is concluded from the CPU per request.
pub async fn two_threads(stage: &mut Stage) -> Outcome {
    let (cores, load) = (stage.cores, get_load(stage)?);
    let one = stage.edge("edge-one", &[cores.tested], &[]).await?;
    let two = stage.edge("edge-two", &[cores.tested, cores.load], &[]).await?;
    let rounds = stage.choose(5, 1);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let title = format!("two threads, round {} of {rounds}", round + 1);
        let pair = async || {
            let (first, second) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
            let (first, second) = (sample(first, &load).await?, sample(second, &load).await?);
            Ok(if round % 2 == 0 { (first, second) } else { (second, first) })
        };
        let (one, two) = stage.referee.round(&title, pair).await?;
        println!("  {title}: {:.1} µs with one, {:.1} µs with two", one.cpu, two.cpu);
        ratios.push(2.0 * one.cpu / two.cpu);
    }
    stage.report.add(TWO_CORES, median(&ratios));
    one.stop().await?;
    two.stop().await
}
