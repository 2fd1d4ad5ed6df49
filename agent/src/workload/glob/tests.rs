use super::*;
use proptest::prelude::*;

fn glob(text: &str) -> Glob {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn patterns_match_what_they_say_and_nothing_else() {
    let cases = [
        ("/shop/web", "/shop/web", true),
        ("/shop/web", "/shop/web/child", false),
        ("/shop/web", "/shop", false),
        ("/shop/web", "shop/web", false),
        ("/shop/*", "/shop/web", true),
        ("/shop/*", "/shop/", true),
        ("/shop/*", "/shop", false),
        ("/shop/*", "/shop/web/child", false),
        ("/shop/w?b", "/shop/web", true),
        ("/shop/w?b", "/shop/w/b", false),
        ("/shop/w?b", "/shop/w\u{fc}b", true),
        ("/k.slice/**/c-*.scope", "/k.slice/c-1.scope", true),
        ("/k.slice/**/c-*.scope", "/k.slice/a/b/c-1.scope", true),
        ("/k.slice/**/c-*.scope", "/k.slice/a/c-1.scope/d", false),
        ("/k.slice/**/c-*.scope", "/other/a/c-1.scope", false),
        ("/a/**", "/a/b", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/a", false),
        ("**", "anything/at/all", true),
        ("**/nginx:*", "docker.io/library/nginx:1.27", true),
        ("**/nginx:*", "nginx:1.27", true),
        ("**/nginx:*", "notnginx:1.27", false),
        ("/**/a/**/b/**/c", "/x/a/a/y/b/c", true),
        ("/**/a/**/b/**/c", "/x/a/a/y/b/c/d", false),
        ("*.service", "web.service", true),
        ("*.service", "web.scope", false),
        (r"web-x\x2dy.service", r"web-x\x2dy.service", true),
        ("web-[ab].service", "web-a.service", false),
        ("a*b*c", "aXbXbXc", true),
        ("a*b*c", "aXbXbX", false),
        ("*", "", true),
        ("a*", "a", true),
        ("a*?", "a", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(glob(pattern).matches(text), expected, "{pattern} on {text}");
    }
}

#[test]
fn a_pattern_that_cannot_be_meant_is_refused() {
    let cases = [
        ("", GlobError::Empty),
        ("/", GlobError::EmptySegment { at: 0 }),
        ("a//b", GlobError::EmptySegment { at: 2 }),
        ("/a/", GlobError::EmptySegment { at: 3 }),
        ("/a/**b", GlobError::DoubleStar { at: 3 }),
        ("/a/***", GlobError::DoubleStar { at: 3 }),
        ("a\u{1b}[2J", GlobError::Control { at: 1 }),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Glob>(), Err(error), "{text:?}");
    }
    assert_eq!("a".repeat(1025).parse::<Glob>(), Err(GlobError::TooLong { length: 1025 }));
    let paths = [
        ("/", GlobError::Root),
        ("shop/web", GlobError::NotAbsolute),
        ("/shop/../web", GlobError::DotSegment { at: 6 }),
    ];
    for (text, error) in paths {
        assert_eq!(Glob::path(text), Err(error), "{text:?}");
    }
    assert!(Glob::path("/shop/**/web-*").is_ok());
}

#[test]
fn the_directory_of_a_pattern_is_its_literal_part_without_the_last_segment() {
    let cases = [
        ("/shop/web", "/shop", 2),
        ("/shop", "/", 1),
        ("/shop/*", "/shop", 2),
        ("/a/b/c*/d", "/a/b", 4),
        ("/kubepods.slice/**/x", "/kubepods.slice", 1),
        ("/**", "/", 0),
        ("/*/a", "/", 2),
    ];
    for (pattern, directory, depth) in cases {
        assert_eq!(glob(pattern).directory(), directory, "{pattern}");
        assert_eq!(glob(pattern).explicit_depth(), depth, "{pattern}");
    }
}

#[test]
fn a_hostile_path_costs_no_more_than_a_blink() {
    let pattern = glob(&format!("/**/{}b", "a*".repeat(100)));
    let text = format!("/{}", format!("{}/", "a".repeat(255)).repeat(16));
    let start = std::time::Instant::now();
    assert!(!pattern.matches(&text));
    assert!(start.elapsed() < std::time::Duration::from_millis(200));
}

/// Straight from the definition, in exponential time.
fn naive(pattern: &[&str], text: Option<&str>) -> bool {
    let Some((first, after)) = pattern.split_first() else { return text.is_none() };
    if *first == "**" {
        let skipped = text.is_some_and(|text| naive(pattern, split(text).1));
        return skipped || if after.is_empty() { text.is_some() } else { naive(after, text) };
    }
    let Some(text) = text else { return false };
    let (segment, rest) = split(text);
    let letters: Vec<char> = segment.chars().collect();
    naive_segment(&first.chars().collect::<Vec<_>>(), &letters) && naive(after, rest)
}

fn naive_segment(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('*', after)), next) => {
            naive_segment(after, text) || next.is_some_and(|(_, rest)| naive_segment(pattern, rest))
        }
        (Some((expected, after)), Some((found, rest))) => {
            (*expected == '?' || expected == found) && naive_segment(after, rest)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_matcher_agrees_with_the_definition(
        pattern in "/?(\\*\\*/|[ab*?]{1,4}/){0,4}([ab?]\\*?|\\*\\*|\\*)",
        text in "/?([ab]{1,3}/){0,5}[ab]{0,3}",
    ) {
        if let Ok(glob) = pattern.parse::<Glob>() {
            let parts: Vec<&str> = pattern.split('/').collect();
            prop_assert_eq!(glob.matches(&text), naive(&parts, Some(&text)), "{} on {}", pattern, text);
        }
    }

    #[test]
    fn no_text_makes_parser_or_matcher_panic(pattern in "(?s).{0,30}", text in "(?s).{0,30}") {
        if let Ok(glob) = pattern.parse::<Glob>() {
            glob.matches(&text);
            prop_assert_eq!(glob.as_str(), pattern.as_str());
            if glob.is_literal() {
                prop_assert!(glob.matches(&pattern));
            }
            glob.directory();
            glob.explicit_depth();
        }
    }
}
