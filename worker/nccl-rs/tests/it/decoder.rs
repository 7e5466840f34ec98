//! A decoder's layer in one call, against its parts one by one.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use nccl_rs::decoder::{DecoderLayer, Places};
use nccl_rs::fused;
use nccl_rs::narrow::Narrow;
use nccl_rs::paged::Seen;
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const WIDTH: i64 = 64;
const HEAD: i64 = 16;
const EPS: f64 = 1e-5;

/// How a weight is held.
#[derive(Clone, Copy, Debug)]
enum Held {
    Halves,
    Bytes,
    Blocks,
    Nibbles,
}

fn narrow(held: Held, [outputs, inputs]: [i64; 2], bias: bool) -> Narrow {
    let bias = bias.then(|| Tensor::randn([outputs], CPU) * 0.1);
    let bias = bias.as_ref();
    let whole =
        |most: i64| Tensor::randint_low(-most, most, [outputs, inputs], (Kind::Int8, Device::Cpu));
    let scales = |shape: &[i64]| Tensor::rand(shape, CPU) * 0.002 + 0.001;
    let made = match held {
        Held::Halves => {
            let weight = (Tensor::randn([outputs, inputs], CPU) * 0.1).to_kind(Kind::BFloat16);
            Narrow::halves(&weight, bias)
        }
        Held::Bytes => Narrow::bytes(&whole(127), &scales(&[outputs]), bias),
        Held::Blocks => Narrow::bytes(&whole(127), &scales(&[outputs, inputs / 32]), bias),
        Held::Nibbles => Narrow::nibbles(&whole(8), &(scales(&[outputs, inputs / 32]) * 16), bias),
    };
    made.unwrap()
}

/// Weights of a layer of 4 heads, of which two share keys and values.
struct Weights {
    norms: [Tensor; 2],
    /// Of query and key heads.
    heads: Option<[Tensor; 2]>,
    parts: [Narrow; 7],
}

impl Weights {
    /// With biases and without norms of heads, or the other way around.
    fn new(held: [Held; 7], bias: bool) -> Self {
        let norm = || Tensor::rand([WIDTH], CPU) + 0.5;
        let heads = || [(); 2].map(|()| Tensor::rand([HEAD], CPU) + 0.5);
        let sizes = [
            [4 * HEAD, WIDTH],
            [2 * HEAD, WIDTH],
            [2 * HEAD, WIDTH],
            [WIDTH, 4 * HEAD],
            [160, WIDTH],
            [160, WIDTH],
            [WIDTH, 160],
        ];
        let mut sizes = sizes.into_iter();
        let parts = held.map(|held| narrow(held, sizes.next().unwrap(), bias));
        Self { norms: [norm(), norm()], heads: (!bias).then(heads), parts }
    }

    fn layer(&self) -> DecoderLayer<'_> {
        let [query, key, value, output, gate, up, down] = &self.parts;
        let [input, post] = &self.norms;
        DecoderLayer {
            input_norm: (input, EPS),
            post_norm: (post, EPS),
            query_norm: self.heads.as_ref().map(|[query, _]| (query, EPS)),
            key_norm: self.heads.as_ref().map(|[_, key]| (key, EPS)),
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            head_size: HEAD,
        }
    }

    /// One part after another.
    fn by_parts(
        &self,
        hidden: &Tensor,
        (cos, sin): (&Tensor, &Tensor),
        (keys, values, slots): (&Tensor, &Tensor, &Tensor),
        seen: &Seen,
    ) -> Tensor {
        let [query, key, value, output, gate, up, down] = &self.parts;
        let tokens = hidden.size()[1];
        let normed = fused::rms_norm(hidden, &self.norms[0], EPS).unwrap();
        let heads =
            |of: &Narrow| of.forward(&normed).unwrap().view([1, tokens, -1, HEAD]).transpose(1, 2);
        let turned = |of: &Narrow, nth: usize| {
            let normed = self.heads.as_ref().map_or_else(
                || heads(of),
                |norms| {
                    let rows = heads(of).transpose(1, 2).contiguous();
                    fused::rms_norm(&rows, &norms[nth], EPS).unwrap().transpose(1, 2)
                },
            );
            fused::rotary(&normed, cos, sin).unwrap()
        };
        let put = |pool: &Tensor, new: Tensor| {
            let new = new.squeeze_dim(0).transpose(0, 1);
            let _ = pool.shallow_clone().index_copy_(0, slots, &new);
        };
        put(keys, turned(key, 1));
        put(values, heads(value));
        let scale = (HEAD as f64).powf(-0.5);
        let mixed = seen.attend(&turned(query, 0), (keys, values), scale).unwrap();
        let hidden = hidden + output.forward(&mixed).unwrap();
        let normed = fused::rms_norm(&hidden, &self.norms[1], EPS).unwrap();
        let inner = gate.forward(&normed).unwrap().silu() * up.forward(&normed).unwrap();
        &hidden + down.forward(&inner).unwrap()
    }
}

#[test]
fn one_call_gives_what_the_parts_give() {
    use Held::{Blocks, Bytes, Halves, Nibbles};
    tch::manual_seed(8);
    for held in [
        [Halves; 7],
        [Bytes; 7],
        [Blocks; 7],
        [Nibbles; 7],
        [Bytes, Halves, Nibbles, Bytes, Blocks, Halves, Nibbles],
    ] {
        for bias in [false, true] {
            let weights = Weights::new(held, bias);
            // Three texts: one new token of many, two of few, the first three.
            let texts: [(usize, Vec<i64>); 3] = [
                (1, (0..20).map(|at| at * 3).collect()),
                (2, vec![1, 7, 4, 10]),
                (3, vec![2, 5, 8]),
            ];
            let texts: Vec<(usize, &[i64])> =
                texts.iter().map(|(new, slots)| (*new, &slots[..])).collect();
            let seen = Seen::new(&texts).unwrap();
            let new: Vec<i64> =
                texts.iter().flat_map(|(new, slots)| slots[slots.len() - new..].to_vec()).collect();
            let pool = || Tensor::randn([64, 2, HEAD], CPU);
            let (keys, values) = (pool(), pool());
            let hidden = Tensor::randn([1, 6, WIDTH], CPU);
            let angles = Tensor::randn([6, HEAD / 2], CPU);
            let (cos, sin) = (angles.cos(), angles.sin());
            let (own_keys, own_values) = (keys.copy(), values.copy());
            let places = Places { keys: &own_keys, values: &own_values, seen: &seen };
            let got = weights.layer().forward(&hidden, (&cos, &sin), &places).unwrap();
            let slots = Tensor::from_slice(&new);
            let want = weights.by_parts(&hidden, (&cos, &sin), (&keys, &values, &slots), &seen);
            assert_eq!(got.size(), want.size());
            assert!(own_keys.equal(&keys) && own_values.equal(&values), "{held:?}");
            let gap = (&got - &want).abs().max().double_value(&[]);
            assert!(gap <= 0.0, "{held:?}, bias {bias}: {gap:e}");
            // It says something: other tokens are seen, and come out otherwise.
            let moved = (&got - &hidden).abs().max().double_value(&[]);
            assert!(moved > 1e-2, "{held:?}: {moved}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    tch::manual_seed(9);
    let weights = Weights::new([Held::Bytes; 7], false);
    let seen = Seen::new(&[(1, &[3, 60])]).unwrap();
    let pool = |slots: i64| Tensor::zeros([slots, 2, HEAD], CPU);
    let table = |rows: i64| Tensor::ones([rows, HEAD / 2], CPU);
    let ask = |layer: DecoderLayer<'_>, hidden: [i64; 3], slots: i64, rows: i64| {
        let (keys, values) = (pool(slots), pool(slots));
        let places = Places { keys: &keys, values: &values, seen: &seen };
        let (cos, sin) = (table(rows), table(rows));
        layer.forward(&Tensor::zeros(hidden, CPU), (&cos, &sin), &places).map(|_| ())
    };
    ask(weights.layer(), [1, 1, WIDTH], 61, 1).unwrap();
    for (hidden, slots, rows, want) in [
        ([1, 2, WIDTH], 61, 2, "do not fit"),
        ([1, 1, 32], 61, 1, "got"),
        ([1, 1, WIDTH], 60, 1, "do not fit"),
        ([1, 1, WIDTH], 61, 2, "got"),
    ] {
        let refused = ask(weights.layer(), hidden, slots, rows).unwrap_err().to_string();
        assert!(refused.contains(want), "{refused}");
    }
    let other = Weights::new([Held::Halves; 7], false);
    let wrong = DecoderLayer { down: &other.parts[0], ..weights.layer() };
    let refused = ask(wrong, [1, 1, WIDTH], 61, 1).unwrap_err().to_string();
    assert!(refused.contains("parts do not fit"), "{refused}");
    let wrong = DecoderLayer { head_size: 24, ..weights.layer() };
    assert!(ask(wrong, [1, 1, WIDTH], 61, 1).is_err());
}
