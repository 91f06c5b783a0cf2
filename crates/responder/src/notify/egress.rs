//! Where notices may go over HTTP: `https` anywhere public, and nothing of our own network that was not listed.
//!
//! A receiver's address is configuration, but what its name resolves to is not ours: a name that suddenly leads to a
//! metadata service or a machine beside us must not be called with our headers. So every address is looked at after
//! resolution, at each connection. Redirects are never followed (`http`), so nothing gets around this.

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Networks that receivers may be in although they are private: `10.1.0.0/16`, `fd00::/8`, or a single address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// The networks.
    pub allow: Vec<Network>,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// Why an address is not called.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Not a URL, or neither `https://` nor `http://` on loopback.
    #[error("address must be https, or http on loopback")]
    Scheme,
    /// A private, link-local or otherwise special address that is not listed.
    #[error("address {0} is not public and not in responder.egress.allow")]
    Address(IpAddr),
    /// A network that cannot be read.
    #[error("network {0:?} is not ADDRESS or ADDRESS/BITS")]
    Network(String),
}

impl Egress {
    /// Reads the URL and refuses what can be refused without asking DNS.
    pub(crate) fn url(&self, text: &str) -> Result<Url, EgressError> {
        let url = Url::parse(text.trim()).map_err(|_| EgressError::Scheme)?;
        let host = url.host_str().ok_or(EgressError::Scheme)?;
        let loopback = is_loopback(host);
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(EgressError::Scheme);
        }
        match literal(host) {
            Some(address) if !loopback && !self.may_call(address) => Err(EgressError::Address(address)),
            _ => Ok(url),
        }
    }

    /// Looks up names for one URL and leaves out what may not be called.
    pub(crate) fn resolver(&self, url: &Url) -> Arc<dyn Resolve> {
        let loopback = url.host_str().is_some_and(is_loopback);
        Arc::new(Resolver { egress: self.clone(), loopback })
    }

    fn may_call(&self, address: IpAddr) -> bool {
        let address = plain(address);
        self.allow.iter().any(|network| network.contains(address)) || is_public(address)
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let same = |left: u128, right: u128, width: u32| {
            let shift = width.saturating_sub(self.bits);
            left.checked_shr(shift).unwrap_or(0) == right.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(one)) => same(u128::from(net.to_bits()), u128::from(one.to_bits()), 32),
            (IpAddr::V6(net), IpAddr::V6(one)) => same(net.to_bits(), one.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let malformed = || EgressError::Network(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse).map_err(|_| malformed())?;
        if bits > width { Err(malformed()) } else { Ok(Self { address, bits }) }
    }
}

impl TryFrom<String> for Network {
    type Error = EgressError;

    fn try_from(text: String) -> Result<Self, EgressError> {
        text.parse()
    }
}

struct Resolver {
    egress: Egress,
    /// The URL itself names loopback: then only loopback may answer.
    loopback: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, loopback) = (self.egress.clone(), self.loopback);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let may = |one: &SocketAddr| if loopback { one.ip().is_loopback() } else { egress.may_call(one.ip()) };
            match found.iter().find(|one| !may(one)) {
                // One bad address spoils the name: whoever answers so is not to be trusted with the others either.
                Some(bad) => {
                    Err(std::io::Error::new(ErrorKind::PermissionDenied, EgressError::Address(bad.ip())).into())
                }
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// An address that a URL's host spells out.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Names loopback and nothing else.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || literal(host).is_some_and(|address| address.is_loopback())
}

/// IPv4 in the clothes of IPv6 is IPv4: mapped, and behind the translation prefix 64:ff9b::/96.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    if let Some(four) = six.to_ipv4_mapped() {
        return four.into();
    }
    match six.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into(),
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [first, second, ..] = four.octets();
            !(four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || four.is_multicast()
                || four.is_broadcast()
                || first == 0
                || first >= 240
                || (first == 100 && (64..128).contains(&second)))
        }
        IpAddr::V6(six) => is_public_v6(six),
    }
}

fn is_public_v6(six: Ipv6Addr) -> bool {
    // What is handed out to networks at all is 2000::/3.
    six.segments()[0] & 0xe000 == 0x2000
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        Egress { allow: allow.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn only_public_addresses_are_called_unless_listed() {
        let none = egress(&[]);
        for special in [
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/",
            "https://192.168.1.1/",
            "https://172.16.0.1/",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://255.255.255.255/",
            "https://224.0.0.1/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            // What URLs make of other spellings of the same addresses.
            "https://2852039166/",
            "https://0xa9fea9fe/",
            "https://0251.0376.0251.0376/",
        ] {
            assert!(matches!(none.url(special), Err(EgressError::Address(_))), "{special}");
        }
        for public in ["https://203.0.114.7/x", "https://[2600::1]/", "https://hooks.example.org/", "http://[::1]:1/"] {
            assert!(none.url(public).is_ok(), "{public}");
        }
        for bad in ["http://hooks.example.org/", "ftp://127.0.0.1/", "nonsense", "http://127.0.0.1.example.org/"] {
            assert!(matches!(none.url(bad), Err(EgressError::Scheme)), "{bad}");
        }
        let some = egress(&["10.1.0.0/16", "fd00::/8", "192.168.0.7"]);
        for listed in ["https://10.1.2.3/", "https://[fd12::1]/", "https://192.168.0.7/"] {
            assert!(some.url(listed).is_ok(), "{listed}");
        }
        for other in ["https://10.2.0.1/", "https://[fe80::1]/", "https://192.168.0.8/"] {
            assert!(some.url(other).is_err(), "{other}");
        }
    }

    #[test]
    fn networks_are_read_or_refused() {
        assert!(egress(&["0.0.0.0/0"]).url("https://169.254.169.254/").is_ok());
        for bad in ["10.0.0.0/33", "10.0.0/8", "", "::/129", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_called() {
        let resolver = egress(&[]).resolver(&Url::parse("https://elsewhere.example.org/").unwrap());
        let refused = resolver.resolve("localhost".parse().unwrap()).await;
        assert!(refused.is_err());
        let own = egress(&[]).resolver(&Url::parse("http://localhost:1/").unwrap());
        assert!(own.resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
