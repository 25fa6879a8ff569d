//! Which calls use the environment's proxy: only those by https to another machine. A plain call would show its
//! signature to the proxy, and calls to this machine need none.
//!
//! The variables (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in lower case) are interpreted by the same code that
//! the HTTP client uses.

use std::{env, net::IpAddr};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Url};

/// The variables that name a proxy for https; the first one that is set applies.
const VARIABLES: [[&str; 2]; 2] = [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// An environment variable names a proxy that can't be used. The error doesn't contain its value, which may contain a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} does not name a usable proxy, such as http://proxy.example:3128 or socks5h://proxy.example:1080: \
     correct it, or add the host to NO_PROXY"
)]
pub struct UnusableProxy {
    variable: &'static str,
}

/// The proxy for calls to `url`, without its password.
///
/// # Errors
/// If the environment names a proxy that can't be used.
pub fn proxy_for(url: &Url) -> Result<Option<String>, UnusableProxy> {
    if is_direct(url) {
        return Ok(None);
    }
    choose(url, |name| env::var(name).ok(), &Matcher::from_env())
}

/// Makes a client for calls to `url` use the proxy from [`proxy_for`], if any.
///
/// # Errors
/// If the environment names a proxy that can't be used.
pub fn by_proxy_for(url: &Url, client: ClientBuilder) -> Result<ClientBuilder, UnusableProxy> {
    Ok(if proxy_for(url)?.is_some() { client } else { client.no_proxy() })
}

fn choose(
    url: &Url,
    variable: impl Fn(&str) -> Option<String>,
    environment: &Matcher,
) -> Result<Option<String>, UnusableProxy> {
    let Ok(uri) = url.as_str().parse() else { return Ok(None) };
    // Whether any proxy would be used, even an unusable one.
    let rules = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
    if Matcher::builder().https("http://any.invalid").no(rules).build().intercept(&uri).is_none() {
        return Ok(None);
    }
    let set = VARIABLES.iter().find_map(|names| {
        let (name, value) = names.iter().find_map(|name| Some((*name, variable(name)?)))?;
        (!value.is_empty()).then_some((name, value))
    });
    if let Some((variable, value)) = set
        && Matcher::builder().https(value).build().intercept(&uri).is_none()
    {
        return Err(UnusableProxy { variable });
    }
    Ok(environment.intercept(&uri).map(|proxy| proxy.uri().to_string().trim_end_matches('/').to_owned()))
}

/// Whether calls to it never use a proxy, whatever the environment says.
fn is_direct(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    url.scheme() != "https" || is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "https://adminapisgp.im.qcloud.com";

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Result<Option<String>, UnusableProxy> {
        let variable =
            |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        let of = |names: [&str; 2]| names.iter().find_map(|name| variable(name)).unwrap_or_default();
        let environment = Matcher::builder().https(of(VARIABLES[0])).all(of(VARIABLES[1]));
        let environment = environment.no(of(["NO_PROXY", "no_proxy"])).build();
        choose(&url.parse().unwrap(), variable, &environment)
    }

    #[test]
    fn plain_calls_and_those_to_this_machine_go_through_no_proxy() {
        for (url, direct) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost", true),
            ("http://chat.example", true),
            ("https://localhost:9000", true),
            ("https://127.8.0.1", true),
            ("https://[::1]:9000", true),
            ("https://[::ffff:127.0.0.1]", true),
            (CHAT, false),
            ("https://192.0.2.7", false),
            ("https://localhost.example", false),
        ] {
            assert_eq!(is_direct(&url.parse().unwrap()), direct, "{url}");
        }
    }

    #[test]
    fn the_proxy_is_told_without_its_password() {
        let through = |proxy: &str| Ok(Some(proxy.to_owned()));
        let password = [("HTTPS_PROXY", "http://me:canary@proxy.example:3128/")];
        assert_eq!(chosen(CHAT, &password), through("http://proxy.example:3128"));
        assert_eq!(chosen(CHAT, &[("all_proxy", "socks5://127.0.0.1:1080")]), through("socks5://127.0.0.1:1080"));
        let both = [("https_proxy", "proxy.example:1"), ("ALL_PROXY", "socks5h://other.example")];
        assert_eq!(chosen(CHAT, &both), through("http://proxy.example:1"));
        assert_eq!(chosen(CHAT, &[("NO_PROXY", "qcloud.com"), both[0]]), Ok(None));
        assert_eq!(chosen(CHAT, &[("HTTP_PROXY", "http://proxy.example:3128")]), Ok(None), "it is for plain calls");
    }

    #[test]
    fn an_unusable_proxy_is_refused_by_the_name_of_its_variable() {
        for (variable, value) in
            [("HTTPS_PROXY", "ftp://me:canary@proxy.example"), ("all_proxy", "socks6://x"), ("ALL_PROXY", "http://")]
        {
            let error = chosen(CHAT, &[(variable, value)]).unwrap_err();
            assert_eq!(error, UnusableProxy { variable });
            assert!(!error.to_string().contains("canary"), "{error}");
            assert_eq!(chosen(CHAT, &[(variable, value), ("no_proxy", "*")]), Ok(None), "it is not needed");
        }
    }
}
