//! `receiptd simulate`: serves the simulated Chat on a port.

use std::{io::Write, net::SocketAddr, process::ExitCode};

use anyhow::bail;
use clap::Args;
use receiptd::{
    chat::Credential,
    lifecycle, logging,
    simulator::{Delivery, Latency, Simulator, SimulatorConfig, WebhookConfig},
    text::counted::counted,
};

use secrecy::ExposeSecret;

use super::{Global, stdout};

/// Serve a simulated Tencent Chat for the configured app on a loopback port
///
/// If webhooks.listen is configured without a certificate, it also sends webhooks there.
#[derive(Args)]
pub struct Arguments {
    /// Loopback address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Latency of answers: a duration, a range, or a mix such as '1*20ms, 9*300ms..400ms'
    #[arg(long, value_name = "SPAN", default_value = "10ms..30ms")]
    latency: Latency,
    /// Maximum number of calls in any second; more are refused with code 60011
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    calls_per_second: u32,
    /// Maximum number of messages per call [default: no limit, as none is documented]
    #[arg(long, value_name = "NUMBER")]
    max_batch: Option<usize>,
    /// Factor by which members read faster than in reality
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// Seed of the random numbers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub async fn execute(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    logging::init(&config.log)?;
    let signing = config.signing()?;
    let Credential::SecretKey(secret_key) = signing.credential else {
        bail!("chat.user_sig is a ready signature: the simulated Chat needs chat.secret_key to verify signatures");
    };
    let stop = lifecycle::stop_on_signal()?;
    let mut settings = SimulatorConfig::new(signing.sdk_app_id, signing.identifier, secret_key);
    settings.listen = arguments.listen;
    settings.latency = arguments.latency;
    settings.calls_per_second = arguments.calls_per_second;
    settings.max_batch = arguments.max_batch;
    settings.world.speed = arguments.speed;
    settings.world.seed = arguments.seed;
    let simulator = Simulator::start(settings).await?;
    let endpoint = simulator.endpoint();
    let mut out = stdout();
    writeln!(out, "Simulated Chat for app {} listening on {endpoint}. To use it:", signing.sdk_app_id)?;
    writeln!(out, "  receiptd run --set chat.endpoint={endpoint}")?;
    if let Some(listener) = config.webhooks.listener.filter(|listener| listener.tls.is_none())
        && let Some(token) = listener.tokens.first().cloned()
    {
        let url = format!("http://{}{}", listener.listen, listener.path.expose_secret());
        simulator.send_webhooks(WebhookConfig { url, token, delivery: Delivery::default() });
        writeln!(out, "It sends webhooks to {}, as configured.", listener.listen)?;
    }
    writeln!(out, "Statistics: {endpoint}/simulator/ledger. Stop with Ctrl-C.")?;
    stop.cancelled().await;
    let ledger = simulator.ledger();
    let calls = counted(ledger.calls(), "call");
    writeln!(out, "{calls} arrived, at most {} in any second.", ledger.highest_sliding_second())?;
    for (code, count) in ledger.errors_by_code() {
        writeln!(out, "{count} answered with code {code}.")?;
    }
    simulator.stop().await;
    Ok(ExitCode::SUCCESS)
}
