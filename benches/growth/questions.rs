//! The main questions of the cookbook, on receiptd's tables and on a table of all polls.

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

/// Further questions of the cookbook. Over a table of all polls each would be a program.
pub const MORE: [(&str, &str); 22] = [
    (
        "announcements read by 80 % within a day",
        r#"SELECT group_id, avg((p80_read_at_most <= '1 day' IS TRUE)::int) FROM receiptd.messages
            WHERE labels @> '{"kind": "announcement"}' AND (known_for >= '1 day' OR NOT p80_read_censored) GROUP BY group_id"#,
    ),
    (
        "all read within an hour",
        "SELECT group_id, count(*) FILTER (WHERE all_read_at_most <= '1 hour') FROM receiptd.messages GROUP BY group_id",
    ),
    (
        "A/B by label",
        r#"SELECT labels ->> 'wording', receiptd.time_until(array_agg(half_read_at_most), array_agg(known_for))
            FROM receiptd.messages WHERE labels @> '{"kind": "announcement"}' GROUP BY 1"#,
    ),
    (
        "announcements against other messages, by branch",
        "SELECT group_labels ->> 'branch', labels ->> 'kind', avg(read_rate_24h) FROM receiptd.messages GROUP BY 1, 2",
    ),
    (
        "two messages side by side",
        "SELECT age, a.read_rate, b.read_rate FROM receiptd.receipt_curve('class-7', 5, '1 hour') a
            JOIN receiptd.receipt_curve('class-7', 6, '1 hour') b USING (age)",
    ),
    (
        "age at which messages of a group were read",
        "SELECT width_bucket(age_at_most, ARRAY['1 hour', '1 day']::interval[]), sum(reads)
            FROM receiptd.age_at_read WHERE group_id = 'class-7' GROUP BY 1",
    ),
    (
        "the same of all messages, from what is kept for good",
        "SELECT sum(read_15m), sum(read_1h - read_15m), sum(read_24h - read_1h), sum(read_7d - read_24h)
            FROM receiptd.messages WHERE read_7d IS NOT NULL",
    ),
    (
        "survival by size of the group",
        "SELECT members / 50, receiptd.time_until(array_agg(half_read_at_most), array_agg(known_for))
            FROM receiptd.messages GROUP BY 1",
    ),
    (
        "effect of the local hour of sending",
        "SELECT extract(hour FROM sent_at AT TIME ZONE 'Asia/Shanghai'),
            receiptd.time_until(array_agg(half_read_at_most), array_agg(known_for)) FROM receiptd.messages GROUP BY 1",
    ),
    (
        "width of the intervals",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY half_read_at_most_s - half_read_at_least_s) FROM receiptd.messages",
    ),
    (
        "cohorts by week",
        "SELECT date_trunc('week', sent_at), avg(read_rate_15m), avg(read_rate_1h), avg(read_rate_24h), avg(read_rate_7d)
            FROM receiptd.messages GROUP BY 1",
    ),
    (
        "groups that got slower",
        "SELECT group_id, receiptd.time_until(array_agg(half_read_at_most) FILTER (WHERE sent_at < '2026-11-16Z'),
                array_agg(known_for) FILTER (WHERE sent_at < '2026-11-16Z')),
            receiptd.time_until(array_agg(half_read_at_most) FILTER (WHERE sent_at >= '2026-11-16Z'),
                array_agg(known_for) FILTER (WHERE sent_at >= '2026-11-16Z'))
            FROM receiptd.messages WHERE sent_at >= '2026-11-09Z' GROUP BY group_id",
    ),
    (
        "reads by hour of the day in Kolkata",
        "SELECT extract(hour FROM local_hour), sum(reads_gained)
            FROM receiptd.hourly_reads('Asia/Kolkata', '2026-11-16Z', '2026-11-23Z') GROUP BY 1",
    ),
    (
        "reads by weekday in Berlin",
        "SELECT extract(isodow FROM hour AT TIME ZONE 'Europe/Berlin'), sum(reads_gained)
            FROM receiptd.hourly_receipts WHERE hour >= '2026-11-16Z' AND reads_gained > 0 GROUP BY 1",
    ),
    (
        "messages that were read, day by day",
        "SELECT day, count(*), sum(reads_gained + reads_found) FROM receiptd.message_days
            WHERE day >= '2026-11-16' AND reads_gained + reads_found > 0 GROUP BY day",
    ),
    (
        "members week by week",
        "SELECT group_id, date_trunc('week', sent_at), avg(members) FROM receiptd.messages GROUP BY 1, 2",
    ),
    (
        "lost readers",
        "SELECT group_id, sum(reads_lost) FROM receiptd.hourly_receipts
            WHERE hour >= '2026-11-16Z' AND reads_lost > 0 GROUP BY group_id",
    ),
    ("groups by branch", "SELECT labels ->> 'branch', sum(messages), sum(members) FROM receiptd.groups GROUP BY 1"),
    (
        "late polls of a week",
        "SELECT group_id, count(*) FROM receiptd.api_calls JOIN receiptd.groups USING (group_key)
            WHERE called_at >= '2026-11-16Z' AND called_at - due_at > '1 minute' AND messages_answered > 0 GROUP BY 1",
    ),
    (
        "calls of each group",
        "SELECT group_id, sum(calls), sum(polls) FROM receiptd.hourly_receipts WHERE calls > 0 GROUP BY group_id",
    ),
    (
        "hours of a group with their coverage",
        "SELECT hour, coverage, reads_carried FROM receiptd.hourly_receipts WHERE group_id = 'class-7'",
    ),
    ("messages changed in the last day", "SELECT count(*) FROM receiptd.messages_since('2026-11-22Z')"),
];
