//! Attention over a pool against libtorch's over keys and values side by side.

use nccl_rs::paged::Seen;
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A pool of 300 slots for 2 groups of heads.
fn pool(width: i64, value: i64) -> (Tensor, Tensor) {
    (Tensor::randn([300, 2, width], CPU), Tensor::randn([300, 2, value], CPU))
}

/// Slots that are neither in order nor together.
fn slots(text: i64, tokens: i64) -> Vec<i64> {
    (0..tokens).map(|token| (token * 7 + text * 131) % 300).collect()
}

#[test]
fn tokens_see_what_libtorch_lets_them_see() {
    tch::manual_seed(6);
    for (width, value) in [(64, 64), (24, 40), (5, 3)] {
        let (keys, values) = pool(width, value);
        // New tokens, all tokens: one key, whole blocks of keys, parts of blocks.
        let sizes = [(1i64, 1), (1, 64), (3, 65), (8, 8), (1, 200), (2, 131)];
        let texts: Vec<(i64, Vec<i64>)> =
            sizes.iter().zip(0..).map(|((new, all), text)| (*new, slots(text, *all))).collect();
        let new: i64 = texts.iter().map(|(new, _)| *new).sum();
        let query = Tensor::randn([1, new, 6, width], CPU).transpose(1, 2);
        let seen = texts.iter().map(|(new, slots)| (usize::try_from(*new).unwrap(), &slots[..]));
        let seen: Vec<_> = seen.collect();
        let seen = Seen::new(&seen).unwrap();
        let got = seen.attend(&query, (&keys, &values), 0.3).unwrap();
        assert_eq!(got.size(), [1, new, 6 * value]);
        let mut start = 0;
        for ((new, slots), (_, all)) in texts.iter().zip(&sizes) {
            let of = |pool: &Tensor| {
                pool.index_select(0, &Tensor::from_slice(slots)).transpose(0, 1).unsqueeze(0)
            };
            let mask = Tensor::ones([*new, *all], (Kind::Bool, Device::Cpu)).tril(all - new);
            let want = Tensor::scaled_dot_product_attention(
                &query.narrow(2, start, *new),
                &of(&keys),
                &of(&values),
                Some(&mask),
                0.0,
                false,
                0.3,
                true,
            );
            let want = want.transpose(1, 2).reshape([1, *new, -1]);
            let gap = (got.narrow(1, start, *new) - want).abs().max().double_value(&[]);
            assert!(gap < 2e-6, "{new} of {all} tokens: {gap:e}");
            start += new;
        }
    }
}

#[test]
fn large_scores_do_not_overflow_and_nan_is_not_hidden() {
    let (keys, values) = pool(4, 4);
    let seen = Seen::new(&[(1, &slots(0, 130))]).unwrap();
    let query = Tensor::ones([1, 2, 1, 4], CPU);
    let got = seen.attend(&(&query * 1e4), (&keys, &values), 1.0).unwrap();
    assert!(bool::try_from(got.isfinite().all()).unwrap());
    let _ = keys.select(0, 0).fill_(f64::NAN);
    let got = seen.attend(&query, (&keys, &values), 1.0).unwrap();
    assert!(bool::try_from(got.isnan().all()).unwrap());
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Seen::new(&[(2, &[0][..])]).is_err());
    assert!(Seen::new(&[(1, &[-1][..])]).is_err());
    let (keys, values) = pool(4, 4);
    let query = Tensor::ones([1, 2, 1, 4], CPU);
    let seen = Seen::new(&[(1, &[299][..])]).unwrap();
    assert!(seen.attend(&query, (&keys, &values), 1.0).is_ok());
    let beyond = Seen::new(&[(1, &[300][..])]).unwrap();
    assert!(beyond.attend(&query, (&keys, &values), 1.0).is_err());
    for query in [
        Tensor::ones([1, 3, 1, 4], CPU),
        Tensor::ones([1, 2, 2, 4], CPU),
        Tensor::ones([1, 2, 1, 5], CPU),
        Tensor::ones([1, 2, 1, 4], (Kind::Double, Device::Cpu)),
    ] {
        assert!(seen.attend(&query, (&keys, &values), 1.0).is_err());
    }
}
