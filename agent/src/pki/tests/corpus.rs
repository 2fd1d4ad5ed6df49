//! Wrong chains, each refused for its own reason.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

use super::forge::*;
use super::*;

/// Two trust domains with one root each, and an intermediate of the first.
pub(super) struct World {
    pub(super) root: Ca,
    other: Ca,
    signer: Ca,
}

impl World {
    pub(super) fn new() -> Self {
        let root = root(ca_params("root", 2));
        let mut params = ca_params("other", 1);
        params.subject_alt_names.clear();
        let other = forge::root(params);
        let signer = below(&root, ca_params("signer", 0));
        Self { root, other, signer }
    }

    /// With empty lists of both, and a domain that believes nobody.
    fn bundles(&self) -> Bundles {
        self.bundles_with(&[self.root.list(&[]), self.signer.list(&[])])
    }

    fn bundles_with(&self, lists: &[rustls::pki_types::CertificateRevocationListDer<'_>]) -> Bundles {
        self.bundles_of(lists, false)
    }

    fn bundles_of(
        &self,
        lists: &[rustls::pki_types::CertificateRevocationListDer<'_>],
        strict: bool,
    ) -> Bundles {
        let of = |name: &str, root: &[CertificateDer<'_>], lists: &[_]| {
            let name: TrustDomain = name.parse().unwrap();
            let bundle = DomainBundle::new(&name, root, lists).unwrap().strict(strict);
            (name, bundle)
        };
        Bundles::new(
            1,
            [
                of("example.org", std::slice::from_ref(&self.root.der), lists),
                of("other.org", std::slice::from_ref(&self.other.der), &[]),
                of("empty.org", &[], &[]),
            ],
        )
    }

    /// An honest chain for this key.
    pub(super) fn leaf_for(&self, key: &rcgen::KeyPair) -> Chain {
        self.chain(leaf_params().signed_by(key, &self.signer.issuer()).unwrap().into())
    }

    fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        vec![leaf, self.signer.der.clone()]
    }

    /// An honest chain but for what `change` does to the leaf.
    pub(super) fn with(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = leaf_params();
        change(&mut params);
        self.chain(leaf(&self.signer, &params))
    }

    /// An honest leaf below a signer that `change` has spoiled.
    fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = ca_params("signer", 0);
        change(&mut params);
        let signer = below(&self.root, params);
        vec![leaf(&signer, &leaf_params()), signer.der]
    }

    fn names(&self, names: Vec<SanType>) -> Vec<CertificateDer<'static>> {
        self.with(|params| params.subject_alt_names = names)
    }

    fn raw(&self, names: &[(u8, &[u8])]) -> Vec<CertificateDer<'static>> {
        self.with(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(true, names)];
        })
    }
}

pub(super) type Chain = Vec<CertificateDer<'static>>;

#[derive(Default)]
struct Corpus(Vec<(String, Chain, &'static str)>);

impl Corpus {
    fn add(&mut self, name: impl Into<String>, chain: Chain, word: &'static str) {
        self.0.push((name.into(), chain, word));
    }

    /// Each one, in both roles.
    fn check(self, bundles: &Bundles) -> usize {
        let now = SystemTime::now();
        for (name, chain, word) in &self.0 {
            for role in [Role::Client, Role::Server] {
                let refusal = match verify(bundles, chain, role, now) {
                    Ok(peer) => panic!("{name}: believed to be {}", peer.id()),
                    Err(refusal) => refusal,
                };
                assert_eq!(refusal.word(), *word, "{name}: {refusal}");
                let shown = refusal.to_string();
                assert!(shown.len() < 600 && !shown.chars().any(char::is_control), "{name}: {shown:?}");
            }
        }
        self.0.len()
    }
}

const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const EMAIL: u8 = 0x81;
const GOOD: &[u8] = b"spiffe://example.org/ns/shop/sa/web";

#[test]
fn honest_chains_are_believed_in_both_roles() {
    let world = World::new();
    let now = SystemTime::now();
    let direct = leaf(&world.root, &leaf_params());
    let longer = below(&world.root, ca_params("middle", 1));
    let last = below(&longer, ca_params("last", 0));
    let deep = vec![leaf(&last, &leaf_params()), last.der.clone(), longer.der.clone()];
    let lists = [world.root.list(&[]), world.signer.list(&[]), longer.list(&[]), last.list(&[])];
    let bundles = world.bundles_with(&lists);
    for (name, chain) in [
        ("plain", world.with(|_| {})),
        (
            "a DNS name beside the ID",
            world.names(vec![uri("spiffe://example.org/a"), SanType::DnsName("x.y".try_into().unwrap())]),
        ),
        ("capitals in scheme and domain", world.names(vec![uri("SPIFFE://Example.ORG/ns/shop/sa/web")])),
        ("no basic constraints", world.with(|params| params.is_ca = rcgen::IsCa::NoCa)),
        ("no extended key usage", world.with(|params| params.extended_key_usages.clear())),
        (
            "a third usage",
            world.with(|params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
        ),
        (
            "key encipherment too",
            world.with(|params| params.key_usages.push(KeyUsagePurpose::KeyEncipherment)),
        ),
        (
            "a subject",
            world.with(|params| params.distinguished_name.push(DnType::CommonName, "spiffe://other.org/x")),
        ),
        ("signed by the root", vec![direct]),
        ("two signers", deep),
        ("the root is shown too", {
            let mut chain = world.with(|_| {});
            chain.push(world.root.der.clone());
            chain
        }),
    ] {
        for role in [Role::Client, Role::Server] {
            verify(&bundles, &chain, role, now).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        }
    }
}

/// Names: none, several, of other kinds, malformed.
fn wrong_names(world: &World, corpus: &mut Corpus) {
    let good = || uri("spiffe://example.org/ns/shop/sa/web");
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    corpus.add("no names", world.names(vec![]), "no-uri");
    corpus.add("a DNS name alone", world.names(vec![dns("example.org")]), "no-uri");
    corpus.add("an address alone", world.names(vec![SanType::IpAddress([10, 0, 0, 1].into())]), "no-uri");
    corpus.add(
        "an e-mail alone",
        world.names(vec![SanType::Rfc822Name("web@example.org".try_into().unwrap())]),
        "no-uri",
    );
    corpus.add("a DNS name that spells an ID", world.raw(&[(DNS, GOOD)]), "no-uri");
    corpus.add("an e-mail that spells an ID", world.raw(&[(EMAIL, GOOD)]), "no-uri");
    let other = tlv(0xa0, &tlv(0x0c, GOOD));
    let other = [&[6, 3, 0x2a, 3, 4][..], &other].concat();
    corpus.add("another name that spells an ID", world.raw(&[(0xa0, &other)]), "no-uri");
    corpus.add("a registered OID", world.raw(&[(0x88, &[0x2a, 3, 4])]), "no-uri");
    corpus.add("an empty list of names", world.raw(&[]), "no-uri");
    corpus.add("two IDs", world.names(vec![good(), uri("spiffe://example.org/b")]), "several-uris");
    corpus.add("the same ID twice", world.names(vec![good(), good()]), "several-uris");
    corpus.add(
        "an ID and a web page",
        world.names(vec![good(), uri("https://example.org/")]),
        "several-uris",
    );
    corpus.add(
        "a web page and an ID",
        world.names(vec![uri("https://example.org/"), good()]),
        "several-uris",
    );
    corpus.add("an ID and nothing", world.raw(&[(URI, GOOD), (URI, b"")]), "several-uris");
    let many = (0..33).map(|number| dns(&format!("n{number}.example.org"))).chain([good()]).collect();
    corpus.add("34 names", world.names(many), "too-many-names");
    let crowd = (0..10_000).map(|number| dns(&format!("n{number}.x"))).chain([good()]).collect();
    corpus.add("10,000 names", world.names(crowd), "too-large");
    corpus.add("a name of no kind", world.raw(&[(URI, GOOD), (0x9f, b"x")]), "extension");
    corpus.add("bytes beyond ASCII in the ID", world.raw(&[(URI, b"spiffe://example.org/\xff\xfe")]), "name");
    corpus.add(
        "names that are no list",
        world.with(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![extension(&[2, 5, 29, 17], true, b"\x04\x02hi")];
        }),
        "extension",
    );
    for text in [
        "https://example.org/a",
        "spiff://example.org/a",
        "spiffe:/example.org/a",
        "urn:spiffe:example.org:a",
        " spiffe://example.org/a",
        "",
        "example.org/a",
        "spiffe",
    ] {
        corpus.add(format!("the URI `{text}`"), world.raw(&[(URI, text.as_bytes())]), "other-scheme");
    }
    for text in ["spiffe://example.org", "spiffe://example.org/", "spiffe://other.org"] {
        corpus.add(format!("the ID `{text}`"), world.raw(&[(URI, text.as_bytes())]), "root-path");
    }
    let long = format!("spiffe://example.org/{}", "a".repeat(2048));
    let domain = format!("spiffe://{}/a", "a".repeat(256));
    let malformed = [
        "spiffe:///a",
        "spiffe://",
        "spiffe://example.org//a",
        "spiffe://example.org/a/",
        "spiffe://example.org/a//b",
        "spiffe://example.org/./a",
        "spiffe://example.org/a/..",
        "spiffe://example.org/../other.org/a",
        "spiffe://example.org/%61",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org/a*",
        "spiffe://example.org/*",
        "spiffe://*/a",
        "spiffe://user@example.org/a",
        "spiffe://example.org:443/a",
        "spiffe://example%2eorg/a",
        "spiffe://exa mple.org/a",
        "spiffe://example.org/a b",
        "spiffe://example.org/a\0b",
        "spiffe://example.org/a\nb",
        "spiffe://example.org/a\u{1b}[31m",
        "spiffe://example.org\\a/b",
        "spiffe://example.org/ä",
        &long,
        &domain,
    ];
    for text in malformed {
        corpus.add(format!("the ID `{text}`"), world.raw(&[(URI, text.as_bytes())]), "spiffe-id");
    }
    let one = |text: &str| world.names(vec![uri(text)]);
    corpus.add("a domain that nobody knows", one("spiffe://unknown.org/a"), "no-bundle");
    corpus.add("a domain that believes nobody", one("spiffe://empty.org/a"), "empty-bundle");
    corpus.add("another domain's name under our root", one("spiffe://other.org/a"), "unknown-issuer");
    corpus.add("a part of our domain's name", one("spiffe://example.or/a"), "no-bundle");
    corpus.add("a domain below ours", one("spiffe://a.example.org/a"), "no-bundle");
}

/// What a leaf says about itself.
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn wrong_leaves(world: &World, corpus: &mut Corpus) {
    let mut leaf = |name: &str, change: &dyn Fn(&mut CertificateParams), word| {
        corpus.add(name, world.with(change), word);
    };
    leaf("an authority", &|params| params.is_ca = authority_flag(), "leaf-is-authority");
    leaf(
        "an authority without a bound",
        &|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        "leaf-is-authority",
    );
    leaf(
        "may sign certificates",
        &|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "leaf-signs-certificates",
    );
    leaf(
        "may sign lists",
        &|params| params.key_usages.push(KeyUsagePurpose::CrlSign),
        "leaf-signs-revocations",
    );
    leaf("no key usage", &|params| params.key_usages.clear(), "no-key-usage");
    leaf(
        "may only encipher",
        &|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        "no-digital-signature",
    );
    leaf(
        "may only agree",
        &|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement],
        "no-digital-signature",
    );
    let usage = |critical, bits| {
        move |params: &mut CertificateParams| {
            params.key_usages.clear();
            params.custom_extensions = vec![raw_key_usage(critical, bits)];
        }
    };
    leaf("key usage not critical", &usage(false, 0x80), "key-usage-not-critical");
    leaf("key usage of nothing", &usage(true, 0), "no-digital-signature");
    leaf("key usage of everything", &usage(true, 0xfe), "leaf-signs-certificates");
    leaf(
        "only a server",
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        "one-way",
    );
    leaf(
        "only a client",
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        "one-way",
    );
    leaf(
        "only for code",
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "one-way",
    );
    leaf(
        "for anything",
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
        "one-way",
    );
    leaf(
        "a critical extension that is unknown",
        &|params| params.custom_extensions = vec![extension(&[1, 2, 3, 4], true, &[5, 0])],
        "critical-extension",
    );
    leaf(
        "key usage twice",
        &|params| params.custom_extensions = vec![raw_key_usage(true, 0x80)],
        "extension-twice",
    );
    leaf(
        "names twice",
        &|params| params.custom_extensions = vec![raw_names(true, &[(URI, GOOD)])],
        "extension-twice",
    );
    leaf(
        "basic constraints twice",
        &|params| params.custom_extensions = vec![raw_basic(&[0x30, 0])],
        "extension-twice",
    );
    leaf(
        "an unknown extension twice",
        &|params| params.custom_extensions = vec![extension(&[1, 2, 3], false, &[5, 0]); 2],
        "extension-twice",
    );
    leaf(
        "basic constraints that are none",
        &|params| {
            params.is_ca = rcgen::IsCa::NoCa;
            params.custom_extensions = vec![raw_basic(&[4, 1, 0])];
        },
        "extension",
    );
    leaf(
        "key usage that is none",
        &|params| {
            params.key_usages.clear();
            params.custom_extensions = vec![extension(&[2, 5, 29, 15], true, &[5, 0])];
        },
        "extension",
    );
    let now = SystemTime::now();
    leaf("expired", &|params| params.not_after = (now - Duration::from_secs(5)).into(), "expired");
    leaf(
        "not valid yet",
        &|params| params.not_before = (now + Duration::from_secs(30)).into(),
        "not-yet-valid",
    );
    leaf(
        "ends before it begins",
        &|params| {
            (params.not_before, params.not_after) = ((now - HOUR).into(), (now - 2 * HOUR).into());
        },
        "dates",
    );
}

/// The bytes themselves, and who has signed them.
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn wrong_bytes(world: &World, corpus: &mut Corpus) {
    let honest = leaf(&world.signer, &leaf_params());
    let good = world.chain(honest.clone());
    let cut = |at: usize| CertificateDer::from(honest[..at].to_vec());
    corpus.add("nothing", vec![], "no-certificate");
    corpus.add("an empty certificate", world.chain(cut(0)), "malformed");
    corpus.add("one byte", world.chain(cut(1)), "malformed");
    corpus.add("half", world.chain(cut(honest.len() / 2)), "malformed");
    corpus.add("all but one", world.chain(cut(honest.len() - 1)), "malformed");
    corpus.add("one byte more", world.chain([&honest[..], &[0]].concat().into()), "malformed");
    corpus.add("text", world.chain(b"-----BEGIN CERTIFICATE-----".to_vec().into()), "malformed");
    corpus.add("zeros", world.chain(vec![0; 400].into()), "malformed");
    corpus.add("a list of lists", world.chain(tlv(0x30, &tlv(0x30, &tlv(0x30, &[]))).into()), "malformed");
    corpus.add(
        "a length of four gigabytes",
        world.chain(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0].into()),
        "malformed",
    );
    corpus.add("a signer that is none", vec![honest.clone(), vec![0x30, 0].into()], "malformed");
    corpus.add(
        "a signer with one byte more",
        vec![honest.clone(), [&world.signer.der[..], &[0]].concat().into()],
        "malformed",
    );
    corpus.add(
        "a third that is none",
        vec![honest.clone(), world.signer.der.clone(), b"x".to_vec().into()],
        "malformed",
    );
    let old = resign(&honest, &world.signer, |tbs| replace(tbs, &[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1]));
    corpus.add("version 2", world.chain(old), "version");
    let flipped = |der: &CertificateDer<'_>, back: usize| {
        let mut bytes = der.to_vec();
        let at = bytes.len() - back;
        bytes[at] ^= 1;
        CertificateDer::from(bytes)
    };
    corpus.add("a bit of the signature", world.chain(flipped(&honest, 1)), "signature");
    corpus.add(
        "a bit of the signer's signature",
        vec![honest.clone(), flipped(&world.signer.der, 1)],
        "signature",
    );
    let serial = resign(&honest, &world.other, |_| {});
    corpus.add("signed again by another", world.chain(serial), "signature");
    let mut moved = honest.to_vec();
    replace(&mut moved, b"/sa/web", b"/sa/wek");
    corpus.add("another name under the old signature", world.chain(moved.into()), "signature");
    let twin = root(ca_params("signer", 0));
    corpus.add(
        "a signer of the same name",
        vec![leaf(&twin, &leaf_params()), world.signer.der.clone()],
        "signature",
    );
    corpus.add(
        "a signer of the same name, shown",
        vec![leaf(&twin, &leaf_params()), twin.der.clone()],
        "unknown-issuer",
    );
    let mut weak = resign(&honest, &world.signer, |tbs| {
        replace(
            tbs,
            &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1],
        );
    })
    .to_vec();
    corpus.add("two kinds of signature", world.chain(weak.clone().into()), "signature");
    replace(
        &mut weak,
        &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
        &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1],
    );
    corpus.add("a kind of signature that nobody takes", world.chain(weak.into()), "algorithm");
    corpus.add("the signer is missing", vec![honest.clone()], "unknown-issuer");
    corpus.add("the signer alone", vec![world.signer.der.clone()], "root-path");
    corpus.add("the root alone", vec![world.root.der.clone()], "root-path");
    let alone = root(leaf_params());
    corpus.add("signed by itself", vec![alone.der.clone()], "unknown-issuer");
    corpus.add("signed by itself below our signer", world.chain(alone.der.clone()), "unknown-issuer");
    corpus.add("another domain's root", vec![leaf(&world.other, &leaf_params())], "unknown-issuer");
    corpus.add(
        "another domain's root, shown",
        vec![leaf(&world.other, &leaf_params()), world.other.der.clone()],
        "unknown-issuer",
    );
    corpus.add(
        "five certificates",
        [good.clone(), vec![world.root.der.clone(); 3]].concat(),
        "too-many-certificates",
    );
    corpus.add(
        "fifty certificates",
        [good.clone(), vec![world.signer.der.clone(); 48]].concat(),
        "too-many-certificates",
    );
    let mut params = leaf_params();
    params.custom_extensions = vec![extension(&[1, 2, 3], false, &tlv(4, &vec![0; 1 << 20]))];
    corpus.add("a megabyte", world.chain(leaf(&world.signer, &params)), "too-large");
    let mut params = leaf_params();
    params.custom_extensions = vec![extension(&[1, 2, 3], false, &tlv(4, &vec![0; 16 * 1024]))];
    corpus.add("16 KiB and a little", world.chain(leaf(&world.signer, &params)), "too-large");
}

/// What signers say about themselves.
fn wrong_signers(world: &World, corpus: &mut Corpus) {
    let mut signer = |name: &str, change: &dyn Fn(&mut CertificateParams), word| {
        corpus.add(name, world.below(change), word);
    };
    signer(
        "a signer that is no authority",
        &|params| params.is_ca = rcgen::IsCa::ExplicitNoCa,
        "signer-is-leaf",
    );
    signer("a signer that does not say", &|params| params.is_ca = rcgen::IsCa::NoCa, "signer-is-leaf");
    signer(
        "a signer that may only sign lists",
        &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign],
        "signer-may-not-sign",
    );
    signer(
        "a signer that may sign nothing",
        &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        "signer-may-not-sign",
    );
    signer("a signer without key usage", &|params| params.key_usages.clear(), "no-key-usage");
    signer(
        "a signer whose key usage is not critical",
        &|params| {
            params.key_usages.clear();
            params.custom_extensions = vec![raw_key_usage(false, 0x06)];
        },
        "key-usage-not-critical",
    );
    signer(
        "a signer for code",
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "signer-usage",
    );
    signer(
        "a signer with a workload's ID",
        &|params| params.subject_alt_names = vec![uri("spiffe://example.org/ca")],
        "signer-has-path",
    );
    signer(
        "a signer of another domain",
        &|params| params.subject_alt_names = vec![uri("spiffe://other.org")],
        "signer-of-other-domain",
    );
    signer(
        "a signer with a malformed ID",
        &|params| params.subject_alt_names = vec![uri("spiffe://example.org//")],
        "signer-of-other-domain",
    );
    signer(
        "a signer with an unknown critical extension",
        &|params| params.custom_extensions = vec![extension(&[1, 2, 3], true, &[5, 0])],
        "critical-extension",
    );
    signer(
        "a signer with a limit on URIs",
        &|params| {
            let subtree = tlv(0x30, &tlv(0x86, b"example.org"));
            params.custom_extensions =
                vec![extension(&[2, 5, 29, 30], true, &tlv(0x30, &tlv(0xa0, &subtree)))];
        },
        "name-constraint",
    );
    let now = SystemTime::now();
    signer(
        "an expired signer",
        &|params| params.not_after = (now - Duration::from_secs(5)).into(),
        "expired",
    );
    signer("a signer of tomorrow", &|params| params.not_before = (now + HOUR).into(), "not-yet-valid");

    let below_leaf = Ca { params: leaf_params(), ..below(&world.signer, leaf_params()) };
    corpus.add(
        "signed by a workload",
        vec![leaf(&below_leaf, &leaf_params()), below_leaf.der.clone(), world.signer.der.clone()],
        "signer-is-leaf",
    );
    let mut named = leaf_params();
    named.distinguished_name.push(DnType::CommonName, "a workload");
    let named = below(&world.signer, named);
    corpus.add(
        "signed by a workload with a subject",
        vec![leaf(&named, &leaf_params()), named.der.clone(), world.signer.der.clone()],
        "signer-is-leaf",
    );
    let deeper = below(&world.signer, ca_params("deeper", 0));
    corpus.add(
        "one signer too many",
        vec![leaf(&deeper, &leaf_params()), deeper.der.clone(), world.signer.der.clone()],
        "path-length",
    );
}

/// Every wrong chain with its name, and the word for why.
pub(super) fn wrong(world: &World) -> Vec<(String, Chain, &'static str)> {
    let mut corpus = Corpus::default();
    wrong_names(world, &mut corpus);
    wrong_leaves(world, &mut corpus);
    wrong_bytes(world, &mut corpus);
    wrong_signers(world, &mut corpus);
    corpus.0
}

#[test]
fn every_wrong_chain_is_refused_for_its_own_reason() {
    let world = World::new();
    let mut corpus = Corpus::default();
    wrong_names(&world, &mut corpus);
    wrong_leaves(&world, &mut corpus);
    wrong_bytes(&world, &mut corpus);
    // Signers made for one case publish no list, so revocation is left out there.
    let mut signers = Corpus::default();
    wrong_signers(&world, &mut signers);
    let count = corpus.check(&world.bundles()) + signers.check(&world.bundles_with(&[]));
    assert!(count >= 120, "{count}");
}

#[test]
fn a_strict_domain_asks_for_the_whole_letter() {
    let world = World::new();
    let lists = [world.root.list(&[]), world.signer.list(&[])];
    let strict = world.bundles_of(&lists, true);
    let mut corpus = Corpus::default();
    corpus.add(
        "no basic constraints",
        world.with(|params| params.is_ca = rcgen::IsCa::NoCa),
        "no-basic-constraints",
    );
    corpus.add(
        "names not critical",
        world.with(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(false, &[(URI, GOOD)])];
        }),
        "names-not-critical",
    );
    corpus.check(&strict);
    verify(&strict, &world.with(|_| {}), Role::Client, SystemTime::now()).unwrap();
}

#[test]
fn roots_are_held_to_their_dates() {
    let now = SystemTime::now();
    let mut params = ca_params("short", 0);
    params.not_after = (now + Duration::from_mins(10)).into();
    let short = root(params);
    let bundle = DomainBundle::new(&domain(), std::slice::from_ref(&short.der), &[]).unwrap();
    let bundles = Bundles::new(1, [(domain(), bundle)]);
    let mut params = leaf_params();
    params.not_before = (now - HOUR).into();
    let chain = [leaf(&short, &params)];
    let peer = verify(&bundles, &chain, Role::Client, now).unwrap();
    assert!(peer.not_after() <= now + Duration::from_mins(10), "the root's end counts too");
    for (at, word) in [
        (now + Duration::from_mins(11), "root-expired"),
        (now - Duration::from_mins(2), "root-not-yet-valid"),
    ] {
        let refusal = verify(&bundles, &chain, Role::Client, at).unwrap_err();
        assert_eq!(refusal.word(), word, "{refusal}");
    }
}

#[test]
fn a_chain_that_was_verified_a_moment_ago_is_not_believed_past_the_end_of_a_list() {
    let world = World::new();
    let chain = world.with(|_| {});
    let now = SystemTime::now();
    let lists = [world.root.list(&[]), world.signer.list_until(&[], now + Duration::from_secs(20))];
    let bundles = world.bundles_with(&lists);
    for (after, word) in [(0, None), (10, None), (30, Some("revocation-expired"))] {
        let verdict = verify(&bundles, &chain, Role::Client, now + Duration::from_secs(after));
        assert_eq!(verdict.as_ref().err().map(Refusal::word), word, "after {after} s: {verdict:?}");
    }
}

#[test]
fn revocation_is_by_lists_that_the_issuer_has_signed_and_that_are_in_date() {
    let world = World::new();
    let chain = world.with(|_| {});
    let (leaf, signer) = (serial_of(&chain[0]), serial_of(&chain[1]));
    let (root_list, signer_list) = (world.root.list(&[]), world.signer.list(&[]));
    let twin = root(ca_params("signer", 0));
    let mut mute = ca_params("signer", 0);
    mute.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let soon = SystemTime::now() - Duration::from_mins(1);
    for (name, lists, word) in [
        (
            "leaf revoked",
            vec![root_list.clone(), world.signer.list(std::slice::from_ref(&leaf))],
            Some("revoked"),
        ),
        (
            "signer revoked",
            vec![world.root.list(std::slice::from_ref(&signer)), signer_list.clone()],
            Some("revoked"),
        ),
        ("another leaf revoked", vec![root_list.clone(), world.signer.list(&["77".repeat(16)])], None),
        ("no list of the signer", vec![root_list.clone()], Some("unknown-revocation")),
        ("no list of the root", vec![signer_list.clone()], None),
        ("no list at all", vec![], None),
        ("only a list of somebody else", vec![world.other.list(&[])], Some("unknown-revocation")),
        (
            "the signer's list is old",
            vec![root_list.clone(), world.signer.list_until(&[], soon)],
            Some("revocation-expired"),
        ),
        (
            "the root's list is old",
            vec![world.root.list_until(&[], soon), signer_list.clone()],
            Some("revocation-expired"),
        ),
        ("the signer's list is a twin's", vec![root_list.clone(), twin.list(&[])], Some("revocation-forged")),
    ] {
        let verdict = verify(&world.bundles_with(&lists), &chain, Role::Client, SystemTime::now());
        assert_eq!(verdict.as_ref().err().map(Refusal::word), word, "{name}: {verdict:?}");
    }
    // A signer that may not sign lists.
    let mute = below(&world.root, mute);
    let silent = vec![forge::leaf(&mute, &leaf_params()), mute.der.clone()];
    let forged = Ca { params: ca_params("signer", 0), der: mute.der, key: mute.key }.list(&[]);
    let bundles = world.bundles_with(&[root_list, forged]);
    assert_eq!(
        verify(&bundles, &silent, Role::Client, SystemTime::now()).unwrap_err().word(),
        "revocation-forged"
    );
}

#[test]
fn a_bundle_holds_roots_and_lists_that_can_be_read_and_not_too_many() {
    let world = World::new();
    let of = |roots: &[CertificateDer<'_>], lists: &[rustls::pki_types::CertificateRevocationListDer<'_>]| {
        DomainBundle::new(&domain(), roots, lists).map(drop).unwrap_err()
    };
    let workload = leaf(&world.signer, &leaf_params());
    assert!(matches!(of(&[workload], &[]), BundleError::Root { number: 1, refusal: Refusal::SignerIsLeaf }));
    assert!(matches!(of(&[vec![0].into()], &[]), BundleError::Root { .. }));
    assert!(matches!(of(&vec![world.root.der.clone(); 17], &[]), BundleError::TooManyRoots { count: 17 }));
    assert!(matches!(of(&[], &[vec![0x30, 0].into()]), BundleError::List { number: 1, .. }));
    assert!(matches!(of(&[], &vec![world.root.list(&[]); 65]), BundleError::TooManyLists));
    assert!(matches!(of(&[], &[vec![0; 2 << 20].into()]), BundleError::TooManyLists));
}
