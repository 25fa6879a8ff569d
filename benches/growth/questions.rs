//! The questions: the main ones on receiptd's tables and on a table of all polls, and all of the cookbook.

/// A question, as SQL for both.
pub struct Question {
    pub asks: &'static str,
    pub receiptd: &'static str,
    pub every_poll: &'static str,
}

pub const QUESTIONS: [Question; 9] = [
    Question {
        asks: "latest counts of one group",
        receiptd: "SELECT msg_seq, read_num, unread_num FROM receiptd.latest_receipts WHERE group_id = 'class-7'",
        every_poll: "SELECT DISTINCT ON (msg_seq) msg_seq, read_num, unread_num FROM every_poll WHERE group_key = 7
            ORDER BY msg_seq, polled_at DESC",
    },
    Question {
        asks: "the ten groups with most unread",
        receiptd: "SELECT group_id, unread_num FROM receiptd.unread_backlog ORDER BY unread_num DESC LIMIT 10",
        every_poll: "SELECT group_key, sum(unread_num) FROM (
                SELECT DISTINCT ON (group_key, msg_seq) group_key, unread_num FROM every_poll
                ORDER BY group_key, msg_seq, polled_at DESC
            ) latest GROUP BY group_key ORDER BY 2 DESC LIMIT 10",
    },
    Question {
        asks: "median time until half had read, of all messages",
        receiptd: "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY half_read_at_most) FROM receiptd.read_speed",
        every_poll: "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY by - sent_at) FROM (
                SELECT group_key, msg_seq, min(polled_at) FILTER (WHERE read_num * 2 >= read_num + unread_num) AS by
                FROM every_poll GROUP BY group_key, msg_seq
            ) half JOIN sent USING (group_key, msg_seq)",
    },
    Question {
        asks: "median read rate a day after sending, by group",
        receiptd: "SELECT group_id, percentile_cont(0.5) WITHIN GROUP (ORDER BY read_rate_24h) FROM receiptd.read_speed
            GROUP BY group_id",
        every_poll: "SELECT group_key, percentile_cont(0.5) WITHIN GROUP (ORDER BY read_num::real / (read_num + unread_num))
            FROM sent CROSS JOIN LATERAL (
                SELECT read_num, unread_num FROM every_poll e WHERE e.group_key = sent.group_key AND e.msg_seq = sent.msg_seq
                    AND e.polled_at <= sent.sent_at + interval '1 day' ORDER BY e.polled_at DESC LIMIT 1
            ) day GROUP BY group_key",
    },
    Question {
        asks: "messages that nobody has read",
        receiptd: "SELECT group_id, msg_seq FROM receiptd.never_read",
        every_poll: "SELECT group_key, msg_seq FROM every_poll GROUP BY group_key, msg_seq HAVING max(read_num) = 0",
    },
    Question {
        asks: "reads an hour over the last week, all groups",
        receiptd: "SELECT hour, sum(reads_gained) FROM receiptd.group_receipts_hourly WHERE hour >= '2026-11-16Z'
            GROUP BY hour ORDER BY hour",
        every_poll: "SELECT date_trunc('hour', polled_at), sum(gained) FROM (
                SELECT polled_at, read_num - lag(read_num) OVER (PARTITION BY group_key, msg_seq ORDER BY polled_at) AS gained
                FROM every_poll WHERE polled_at >= '2026-11-16Z'
            ) gains GROUP BY 1 ORDER BY 1",
    },
    Question {
        asks: "which groups grow quiet",
        receiptd: "SELECT group_id, trend FROM receiptd.group_engagement ORDER BY trend LIMIT 10",
        every_poll: "SELECT group_key, percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) FILTER (WHERE sent_at >= '2026-11-15Z')
                - percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) FILTER (WHERE sent_at < '2026-11-15Z') AS trend
            FROM sent CROSS JOIN LATERAL (
                SELECT read_num::real / (read_num + unread_num) AS rate FROM every_poll e
                WHERE e.group_key = sent.group_key AND e.msg_seq = sent.msg_seq
                    AND e.polled_at <= sent.sent_at + interval '1 day' ORDER BY e.polled_at DESC LIMIT 1
            ) day WHERE sent_at >= '2026-11-08Z' AND sent_at < '2026-11-22Z' GROUP BY group_key ORDER BY trend LIMIT 10",
    },
    Question {
        asks: "how one message was read, hour by hour",
        receiptd: "SELECT * FROM receiptd.receipt_curve('class-7', 5, '1 hour')",
        every_poll: "SELECT t, e.* FROM sent CROSS JOIN generate_series(sent_at, '2026-11-23Z', interval '1 hour') AS t
            LEFT JOIN LATERAL (
                SELECT read_num, unread_num FROM every_poll e WHERE e.group_key = 7 AND e.msg_seq = 5 AND e.polled_at <= t
                ORDER BY e.polled_at DESC LIMIT 1
            ) e ON true WHERE group_key = 7 AND msg_seq = 5",
    },
    Question {
        asks: "unread of all messages as it stood a week ago",
        receiptd: "SELECT sum(unread_num) FROM receiptd.receipts_at('2026-11-16Z')",
        every_poll: "SELECT sum(unread_num) FROM (
                SELECT DISTINCT ON (group_key, msg_seq) unread_num FROM every_poll WHERE polled_at <= '2026-11-16Z'
                ORDER BY group_key, msg_seq, polled_at DESC
            ) latest",
    },
];

/// The questions of the cookbook, with their queries.
pub fn cookbook() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("../../docs/analysts.md").split("\n### ").skip(1).filter_map(|part| {
        let sql = part.split_once("```sql\n")?.1.split("```\n").next()?;
        Some((part.lines().next()?, sql))
    })
}
