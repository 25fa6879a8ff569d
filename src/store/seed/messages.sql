-- $1 app, $2 groups, $3 messages in all, $4 days, $5 members of a group on average, $6 the end, $7 and $8 the first and
-- the last of the messages, counted from 0 group by group: the messages and their snapshots, as a daemon would have left them.
--
-- Snapshots are inserted in the order of their key, which is how days are kept when they are over, and takes half the time.
--
-- Random numbers are hashes of the message's number n: the same arguments give the same history on every machine. Groups take
-- turns, so the position of a message within its group gives n. MATERIALIZED and OFFSET 0 let each value be computed once, and not
-- again for every use.
WITH places AS (
    -- The first $3 % $2 groups have a message more.
    SELECT CASE WHEN i < long THEN i / (each + 1) + i % (each + 1) * $2
        ELSE $3 % $2 + (i - long) / each + (i - long) % each * $2 END AS n
    FROM generate_series($7::bigint, $8::bigint) AS i
    CROSS JOIN LATERAL (SELECT $3::bigint / $2 AS each, $3 % $2 * ($3 / $2 + 1) AS long) shares
), parts AS MATERIALIZED (
    SELECT n, n % $2 + 1 AS g, n / $2 + 1 AS msg_seq, n * $4 / $3 AS day, n * $4 % $3 / $3::double precision AS of_day,
        ('x' || substr(md5(n::text), 1, 8))::bit(32)::bigint / 4294967296.0 AS luck,
        ('x' || substr(md5(n::text), 9, 8))::bit(32)::bigint / 4294967296.0 AS haste,
        ('x' || substr(md5(n::text), 17, 8))::bit(32)::bigint AS lot,
        ('x' || substr(md5('g' || n % $2), 1, 8))::bit(32)::bigint / 4294967296.0 AS zeal,
        ('x' || substr(md5('g' || n % $2), 9, 8))::bit(32)::bigint / 4294967296.0 AS size
    FROM places
), sizes AS MATERIALIZED (
    SELECT p.*, w.group_key, date_trunc('day', $6::timestamptz, 'UTC') - $4 * interval '1 day' + p.day * interval '1 day'
            + interval '7 hours' + p.of_day * interval '12 hours' + p.haste * interval '5 minutes' AS sent_at,
        greatest(2, ($5 * (0.5 + p.size))::integer) AS members,
        300 * (1 + 20 * p.zeal * p.zeal) * (0.5 + p.haste) AS scale
    FROM parts p
    JOIN receiptd.watched_groups w ON w.sdk_app_id = $1 AND w.group_id = 'class-' || p.g
), messages AS (
    -- Some are never read, some by all; every fifth group goes quiet.
    SELECT s.*, CASE WHEN s.luck < 0.02 THEN 0 ELSE least(s.members, (s.members * (0.35 + 0.5 * s.zeal + 0.3 * s.luck)
            * CASE WHEN s.g % 5 = 3 THEN 1 - 0.6 * s.day / $4 ELSE 1 END)::integer) END AS readers,
        s.sent_at + (5 + 50 * s.haste) * interval '1 second' AS first_poll,
        least($6, s.sent_at + interval '30 days') AS last_poll
    FROM sizes s
), snapshots AS (
    SELECT m.group_key, m.msg_seq, m.sent_at, m.members, h.polled_at, h.read_num, m.members - h.read_num AS unread_num,
        h.prior_read_num, CASE WHEN h.prior_read_num IS NOT NULL
            THEN greatest(h.before, h.polled_at - least(interval '1 hour', (h.polled_at - m.sent_at) / 60)) END AS prior
    FROM messages m
    CROSS JOIN LATERAL (
        SELECT k AS read_num, at AS polled_at, lag(k) OVER (ORDER BY k) AS prior_read_num, lag(at) OVER (ORDER BY k) AS before
        FROM (
            SELECT k, m.first_poll + CASE WHEN k = 0 THEN interval '0' ELSE
                m.scale * power(k / m.readers::double precision, 2) / (1.02 - k / m.readers::double precision)
                * interval '1 second' + k * interval '1 microsecond' END AS at
            FROM generate_series(0, m.readers) AS k
            OFFSET 0
        ) curve
        -- Nothing was polled for three hours, ten days before the end.
        WHERE at < m.last_poll AND NOT (at >= $6 - interval '10 days 3 hours' AND at < $6 - interval '10 days')
    ) h
), stored AS (
    INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at,
        prior_read_num, prior_unread_num)
    SELECT group_key, msg_seq, polled_at, read_num, unread_num, 0, prior, prior_read_num, read_num + unread_num - prior_read_num
    FROM snapshots
    RETURNING 1
), latest AS (
    -- Counts only rise here, so the largest are the last ones.
    SELECT group_key, msg_seq, min(polled_at) AS first_polled_at, max(polled_at) AS last_changed_at,
        max(read_num) AS read_num, min(unread_num) AS unread_num,
        nullif(min(since) FILTER (WHERE read_num > 0), '-infinity') AS first_after,
        min(polled_at) FILTER (WHERE read_num > 0) AS first_by,
        nullif(min(since) FILTER (WHERE read_num * 2 >= members), '-infinity') AS half_after,
        min(polled_at) FILTER (WHERE read_num * 2 >= members) AS half_by,
        nullif(min(since) FILTER (WHERE read_num * 10 >= members * 8), '-infinity') AS p80_after,
        min(polled_at) FILTER (WHERE read_num * 10 >= members * 8) AS p80_by,
        nullif(min(since) FILTER (WHERE read_num * 10 >= members * 9), '-infinity') AS p90_after,
        min(polled_at) FILTER (WHERE read_num * 10 >= members * 9) AS p90_by,
        nullif(min(since) FILTER (WHERE unread_num = 0), '-infinity') AS all_after,
        min(polled_at) FILTER (WHERE unread_num = 0) AS all_by,
        CASE WHEN max(polled_at) > sent_at + interval '15 minutes'
            THEN max(read_num) FILTER (WHERE polled_at <= sent_at + interval '15 minutes') END AS read_15m,
        CASE WHEN max(polled_at) > sent_at + interval '15 minutes'
            THEN min(unread_num) FILTER (WHERE polled_at <= sent_at + interval '15 minutes') END AS unread_15m,
        CASE WHEN max(polled_at) > sent_at + interval '1 hour'
            THEN max(read_num) FILTER (WHERE polled_at <= sent_at + interval '1 hour') END AS read_1h,
        CASE WHEN max(polled_at) > sent_at + interval '1 hour'
            THEN min(unread_num) FILTER (WHERE polled_at <= sent_at + interval '1 hour') END AS unread_1h,
        CASE WHEN max(polled_at) > sent_at + interval '24 hours'
            THEN max(read_num) FILTER (WHERE polled_at <= sent_at + interval '24 hours') END AS read_24h,
        CASE WHEN max(polled_at) > sent_at + interval '24 hours'
            THEN min(unread_num) FILTER (WHERE polled_at <= sent_at + interval '24 hours') END AS unread_24h,
        CASE WHEN max(polled_at) > sent_at + interval '7 days'
            THEN max(read_num) FILTER (WHERE polled_at <= sent_at + interval '7 days') END AS read_7d,
        CASE WHEN max(polled_at) > sent_at + interval '7 days'
            THEN min(unread_num) FILTER (WHERE polled_at <= sent_at + interval '7 days') END AS unread_7d
    FROM (SELECT *, coalesce(prior, '-infinity') AS since FROM snapshots) s
    GROUP BY group_key, msg_seq, sent_at
), watched AS (
    INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, added_at, state, closed_at, read_num, unread_num,
        receipt_code, first_polled_at, last_changed_at, known_until, first_read_after, first_read_by, half_read_after,
        half_read_by, p80_read_after, p80_read_by, p90_read_after, p90_read_by, all_read_after, all_read_by, read_15m, unread_15m, read_1h, unread_1h,
        read_24h, unread_24h, read_7d, unread_7d, labels, updated_at)
    SELECT m.group_key, m.msg_seq, m.sent_at, m.sent_at, ended.state,
        CASE ended.state WHEN 'all_read' THEN l.last_changed_at + interval '1 hour' WHEN 'expired' THEN m.last_poll END,
        l.read_num, l.unread_num, CASE WHEN l.read_num IS NOT NULL THEN 0 END, l.first_polled_at, l.last_changed_at,
        CASE WHEN l.read_num IS NULL THEN NULL WHEN ended.state = 'all_read' THEN l.last_changed_at + interval '1 hour'
            ELSE m.last_poll END,
        l.first_after, l.first_by, l.half_after, l.half_by, l.p80_after, l.p80_by, l.p90_after, l.p90_by, l.all_after, l.all_by,
        l.read_15m, l.unread_15m, l.read_1h, l.unread_1h, l.read_24h, l.unread_24h, l.read_7d, l.unread_7d,
        -- A third are announcements, in two wordings.
        CASE WHEN m.lot % 3 = 0 THEN jsonb_build_object('kind', 'announcement', 'wording', (ARRAY['A', 'B'])[m.lot / 3 % 2 + 1])
            END,
        CASE ended.state WHEN 'all_read' THEN l.last_changed_at + interval '1 hour' WHEN 'expired' THEN m.last_poll
            ELSE m.sent_at END
    FROM messages m
    LEFT JOIN latest l USING (group_key, msg_seq)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.unread_num = 0 AND l.last_changed_at + interval '1 hour' < m.last_poll THEN 'all_read'
            WHEN m.last_poll < $6 THEN 'expired' ELSE 'active' END AS state
    ) ended
    ORDER BY m.group_key, m.msg_seq
)
SELECT count(*) FROM stored
