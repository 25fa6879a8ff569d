//! The domains of Tencent Chat: one primary and one backup domain per region.

use std::{fmt, str::FromStr};

/// The country of an SDKAppID, which decides the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// China.
    Cn,
    /// Singapore.
    Sg,
    /// Seoul.
    Kr,
    /// Frankfurt.
    De,
    /// Silicon Valley.
    Us,
    /// Jakarta.
    Id,
    /// Tokyo.
    Jp,
}

impl Region {
    /// Every region, in the order of the documentation.
    pub const ALL: [Self; 7] = [Self::Cn, Self::Sg, Self::Kr, Self::De, Self::Us, Self::Id, Self::Jp];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cn => "cn",
            Self::Sg => "sg",
            Self::Kr => "kr",
            Self::De => "de",
            Self::Us => "us",
            Self::Id => "id",
            Self::Jp => "jp",
        }
    }

    /// The region's domain, from "Pulling Read Receipts for Group Messages".
    pub fn domain(self) -> &'static str {
        match self {
            Self::Cn => "console.tim.qq.com",
            Self::Sg => "adminapisgp.im.qcloud.com",
            Self::Kr => "adminapikr.im.qcloud.com",
            Self::De => "adminapiger.im.qcloud.com",
            Self::Us => "adminapiusa.im.qcloud.com",
            Self::Id => "adminapiidn.im.qcloud.com",
            Self::Jp => "adminapijpn.im.qcloud.com",
        }
    }

    /// The backup domain, used if the first is unreachable.
    pub fn backup_domain(self) -> &'static str {
        match self {
            Self::Cn => "adminapi.my-imcloud.com",
            Self::Sg => "adminapisgp.my-imcloud.com",
            Self::Kr => "adminapikr.my-imcloud.com",
            Self::De => "adminapiger.my-imcloud.com",
            Self::Us => "adminapiusa.my-imcloud.com",
            Self::Id => "adminapiidn.my-imcloud.com",
            Self::Jp => "adminapijpn.my-imcloud.com",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tencent Chat has no such region.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("region {0:?} is unknown: use one of cn, sg, kr, de, us, id, jp")]
pub struct UnknownRegion(String);

impl FromStr for Region {
    type Err = UnknownRegion;

    fn from_str(name: &str) -> Result<Self, UnknownRegion> {
        let wanted = name.trim().to_ascii_lowercase();
        Self::ALL.into_iter().find(|region| region.name() == wanted).ok_or_else(|| UnknownRegion(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_parses_by_name_and_has_two_unique_domains() {
        let mut domains = std::collections::HashSet::new();
        for region in Region::ALL {
            assert_eq!(region.name().parse(), Ok(region));
            assert!(domains.insert(region.domain()) && domains.insert(region.backup_domain()));
        }
        assert_eq!("eu".parse::<Region>(), Err(UnknownRegion("eu".into())));
    }
}
