//! The owner of the program that listens on an address of this machine, according to the kernel.
//!
//! Any program that takes a port first can answer in the daemon's place. So the account of the socket decides whether
//! it is asked and trusted, never its answer.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::host::account::Account;

/// The kernel's tables of TCP sockets.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// The daemon's account in the packaged units.
const ACCOUNT: &str = "receiptd";

/// The state of a listening socket in the tables.
const LISTENS: &str = "0A";

/// The owners of programs that listen on `address`, or on all addresses with its port; empty if there are none.
///
/// # Errors
/// If the kernel's tables can't be read.
pub(super) fn listeners(address: SocketAddr) -> io::Result<Vec<u32>> {
    let tables = TABLES.map(fs::read_to_string);
    // A machine without IPv6 has one table.
    if let [Err(error), Err(_)] = tables {
        return Err(error);
    }
    let tables = tables.into_iter().flatten();
    Ok(tables.flat_map(|table| of_table(&table, address)).collect())
}

fn of_table(table: &str, address: SocketAddr) -> Vec<u32> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let (ip, port) = (ip_address(ip)?, u16::from_str_radix(port, 16).ok()?);
        let asked = address.ip().to_canonical();
        let is_it = *fields.get(3)? == LISTENS && port == address.port() && (ip == asked || ip.is_unspecified());
        is_it.then(|| fields.get(7)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// An address in the kernel's format: 32-bit words, each in the machine's byte order.
fn ip_address(text: &str) -> Option<IpAddr> {
    let word = |from: usize| Some(u32::from_str_radix(text.get(from..from + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let bytes: [u8; 16] = bytes.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Whether a program of this account is trusted to be the daemon: that of this process, root, and the one of the
/// packaged units.
pub(super) fn is_believed(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw() || name(uid).as_deref() == Some(ACCOUNT)
}

/// The name of an account, if it has one.
pub(super) fn in_words(uid: u32) -> String {
    name(uid).map_or_else(|| format!("number {uid}"), |name| format!("{name:?}"))
}

fn name(uid: u32) -> Option<String> {
    Account::with(uid).map(|account| account.name)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 11 1 0 100 0 0 10 0
   1: 00000000:24F9 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 12 1 0 100 0 0 10 0
   2: 0100007F:24F8 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
";
    const TABLE_6: &str = "  sl  local_address                         remote_address
   0: 00000000000000000000000001000000:24F8 00000000000000000000000000000000:0000 0A 0:0 0:0 0 1002 0 14 1
   1: 00000000000000000000000000000000:24FA 00000000000000000000000000000000:0000 0A 0:0 0:0 0 1003 0 15 1
   2: 0000000000000000FFFF00000100007F:24FB 00000000000000000000000000000000:0000 0A 0:0 0:0 0 1004 0 16 1
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables_tell_whose_program_listens() {
        for (address, of_4, of_6) in [
            ("127.0.0.1:9464", vec![1001], vec![]),
            ("127.0.0.2:9464", vec![], vec![]),
            ("127.0.0.1:9465", vec![998], vec![]),
            ("[::1]:9464", vec![], vec![1002]),
            ("127.0.0.1:9466", vec![], vec![1003]),
            ("127.0.0.1:9467", vec![], vec![1004]),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((of_table(TABLE, address), of_table(TABLE_6, address)), (of_4, of_6), "{address}");
        }
        assert!(of_table("nothing\nlike it\n1: x:y z 0A", "127.0.0.1:9464".parse().unwrap()).is_empty());
    }

    #[test]
    fn ones_own_listener_is_ones_own() {
        let own = rustix::process::geteuid().as_raw();
        for any in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let address = super::super::status::reachable(listener.local_addr().unwrap());
            assert_eq!(listeners(address).unwrap(), [own], "{any}");
            drop(listener);
            assert!(listeners(address).unwrap().is_empty());
        }
        assert!(is_believed(own) && is_believed(0) && !is_believed(4_000_000_000));
    }
}
