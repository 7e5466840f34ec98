//! Megabytes of text that one thread cleans, filters and signs in a second.
//!
//! The corpus is made up from a seed: English and Chinese pages as HTML, product descriptions and
//! letters with personal data, as they are found in data that companies train on. A figure is the
//! best of several runs, in megabytes (10^6 bytes) of the raw text a second; each step is given the
//! text that the steps before it made.
#![expect(clippy::print_stdout, reason = "figures are for people")]
#![expect(clippy::unwrap_used, reason = "a bench may stop")]
#![expect(clippy::format_push_string, reason = "the corpus is made before the clock starts")]

use std::hint::black_box;
use std::time::Instant;

use hearth_crds::preparation::{CleanStep, Cleaning, TextFilter};
use hearth_prepare::text::clean::{Cleaner, Masked};
use hearth_prepare::text::filter::Filter;
use hearth_prepare::text::mask::KINDS;
use hearth_prepare::text::similar::MinHash;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const BYTES: usize = 8_000_000;
const RUNS: usize = 7;
const CHAIN: [CleanStep; 5] = [
    CleanStep::StripHTML,
    CleanStep::NFKC,
    CleanStep::StripControl,
    CleanStep::CollapseWhitespace,
    CleanStep::Mask,
];

const ENGLISH: &str = "the of and to in is that for it as was with be by on not he his but at are \
    this have from or had an they which one you were all her she there would their we him been has \
    when who will no more if out so up said what its about than into them can only other time new \
    some could these two may first then do any like my now over such our man me even most made after \
    also did many off before must well back through years where much your way down should because \
    long each just state those people too mr how little good world make very year still see own work \
    men day get here between both life being under three never know same last another while us might \
    great since against go came right used take company delivery customer invoice contract shipping";
const CHINESE: &str = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运";

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u32() as usize) % bound
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

fn english(random: &mut Random, words: &[&str]) -> String {
    let length = 8 + random.below(18);
    let mut sentence: Vec<String> =
        (0..length).map(|_| words[random.below(words.len())].to_owned()).collect();
    match random.below(40) {
        0 => sentence.push(format!(
            "write to user{}@mail{}.example.com",
            random.below(999),
            random.below(9)
        )),
        1 => sentence.push(format!("call +1 415 555 {:04}", random.below(9999))),
        2 => sentence.push(format!("host 10.{}.0.{}", random.below(255), random.below(255))),
        3..=9 => sentence.push(format!(
            "in {} for ${}.{:02}",
            1990 + random.below(40),
            random.below(900),
            random.below(99)
        )),
        10 => sentence.push("“quoted” — café naïve".to_owned()),
        _ => {}
    }
    sentence.join(" ") + ". "
}

fn chinese(random: &mut Random, characters: &[char]) -> String {
    let length = 10 + random.below(30);
    let mut sentence: String = (0..length)
        .map(|i| if i % 9 == 8 { '，' } else { characters[random.below(characters.len())] })
        .collect();
    match random.below(20) {
        0 => sentence += &format!("电话13{:09}", random.below(999_999_999)),
        1..=4 => sentence += &format!("{}年", 1990 + random.below(40)),
        _ => {}
    }
    sentence + "。"
}

fn document(random: &mut Random, words: &[&str], characters: &[char]) -> String {
    let is_page = random.chance(2);
    let is_chinese = random.chance(3);
    let mut text = String::new();
    if is_page {
        text += "<!DOCTYPE html><html><head><title>Page</title><style>p { margin: 0 }</style>\
            <script>if (a < b) { run('</p>'); }</script></head>\n<body class=\"page\">\n";
    }
    for _ in 0..3 + random.below(10) {
        let mut paragraph = String::new();
        for _ in 0..=random.below(6) {
            let sentence =
                if is_chinese { chinese(random, characters) } else { english(random, words) };
            paragraph += &match random.below(12) {
                0 if is_page => format!(
                    "<a href=\"https://example.com/{}?a=1&amp;b=2\">{sentence}</a>",
                    random.below(9999)
                ),
                1 if is_page => format!("<b>{sentence}</b>&nbsp;"),
                2 if is_page => sentence.replacen(' ', " &amp; ", 1),
                _ => sentence,
            };
        }
        text += &if is_page {
            format!("  <p class=\"text\">{paragraph}</p>\n")
        } else {
            paragraph + "\n\n"
        };
    }
    if is_page { text + "</body></html>\n" } else { text }
}

fn corpus() -> Vec<String> {
    let mut random = Random(ChaCha8Rng::seed_from_u64(1));
    let words: Vec<&str> = ENGLISH.split_whitespace().collect();
    let characters: Vec<char> = CHINESE.chars().collect();
    let mut texts = Vec::new();
    let mut bytes = 0;
    while bytes < BYTES {
        let text = document(&mut random, &words, &characters);
        bytes += text.len();
        texts.push(text);
    }
    texts
}

fn main() {
    let raw = corpus();
    let size: usize = raw.iter().map(String::len).sum();
    println!("{} texts, {size} bytes", raw.len());

    let mut texts = raw.clone();
    for step in CHAIN {
        let cleaner = cleaner(&[step]);
        measure(&format!("{step:?}"), &texts, |text| drop(black_box(clean(&cleaner, text))));
        texts = texts.iter().map(|text| clean(&cleaner, text)).collect();
    }
    let chain = cleaner(&CHAIN);
    let mut masked = Masked::new();
    measure("chain", &raw, |text| drop(black_box(chain.clean(text, &mut masked))));
    masked.clear();
    for text in &raw {
        drop(chain.clean(text, &mut masked));
    }
    println!("masked {masked:?}");

    let every = TextFilter {
        min_characters: Some(1),
        max_symbols: Some(1.0),
        max_repeated_lines: Some(1.0),
        max_repeated_words: Some(1.0),
        ..TextFilter::default()
    };
    let languages = TextFilter { languages: vec!["en".to_owned()], ..TextFilter::default() };
    for (name, spec) in [("filter without languages", every), ("filter languages", languages)] {
        let filter = Filter::new(&spec).unwrap();
        measure(name, &texts, |text| _ = black_box(filter.refusal(text)));
    }
    let hash = MinHash::new(0.8, 0);
    let mut signature = vec![0; hash.len()];
    measure("MinHash", &texts, |text| hash.sign(text, black_box(&mut signature)));
}

fn cleaner(steps: &[CleanStep]) -> Cleaner {
    let cleaning = Cleaning { steps: steps.to_vec(), mask: KINDS.to_vec(), ..Cleaning::default() };
    Cleaner::new(&cleaning).unwrap()
}

fn clean(cleaner: &Cleaner, text: &str) -> String {
    cleaner.clean(text, &mut Masked::new()).into_owned()
}

fn measure(name: &str, texts: &[String], mut work: impl FnMut(&str)) {
    let size: usize = texts.iter().map(String::len).sum();
    let run = |_| {
        let start = Instant::now();
        for text in texts {
            work(text);
        }
        start.elapsed().as_secs_f64()
    };
    let best = (0..RUNS).map(run).fold(f64::INFINITY, f64::min);
    println!("{name:28} {:8.1} MB/s", size as f64 / 1e6 / best);
}
