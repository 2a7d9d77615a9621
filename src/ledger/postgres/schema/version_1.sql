-- Version 1 of the ledger's schema. A later version only adds beside what is here: replicas of two versions work side by side while
-- they are exchanged, so nothing that an older one reads or calls is changed or taken away (schema.rs).
--
-- Times are microseconds since 1970 UTC. Serial numbers have no leading zeros. Every write is one call of one function and so one
-- transaction that never waits for its client: a process that is frozen in the middle holds no lock.
--
-- Advisory locks (all of them end with their transaction):
--   (1297307725, generation)  shared by whoever records with a generation, exclusive for whoever closes it: the fence
--   0x4d4d << 48 | batch      shared by a batch that has no number yet; it will be above this one (what may be followed, lists.rs)
--   (1297307726, 1)           whoever makes or drops ranges, or prunes
--   (1297307726, 2)           whoever changes the schema

-- The certificates of one kind, issuer, generation, bundle and kind of key; key_algorithm is '' where nobody knows it.
CREATE TABLE meshmint.classes (
    class integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    issuer text NOT NULL,
    generation bigint NOT NULL,
    bundle_number bigint NOT NULL,
    key_algorithm text NOT NULL,
    UNIQUE (kind, issuer, generation, bundle_number, key_algorithm)
);

-- Everything that is no leaf: little, and kept long.
CREATE TABLE meshmint.others (
    -- batch * 4096 + place in the batch: the order of recording.
    id bigint NOT NULL,
    class integer NOT NULL,
    issued_at bigint NOT NULL,
    not_before bigint NOT NULL,
    not_after bigint NOT NULL,
    revoked_at bigint,
    replica_sequence bigint NOT NULL,
    -- not_after in whole minutes, or the largest number there is.
    minute integer NOT NULL,
    serial bytea NOT NULL,
    issuer text NOT NULL,
    sha256 bytea NOT NULL,
    -- The first 16 octets of the holder's SHA-256.
    holder_key bytea,
    holder text,
    spiffe_id text,
    cluster text,
    namespace text,
    service_account text,
    pod_name text,
    pod_uid text,
    node_name text,
    node_uid text,
    profile_digest text NOT NULL,
    credential text NOT NULL,
    replica text NOT NULL,
    revoked_reason text,
    der bytea NOT NULL
);
-- It is random: packing it is lost work.
ALTER TABLE meshmint.others ALTER COLUMN der SET STORAGE EXTERNAL;

-- The leaves, by ranges of their serials, which begin with the time: to forget a range is to drop its table.
CREATE TABLE meshmint.leaves (LIKE meshmint.others INCLUDING STORAGE) PARTITION BY RANGE (serial);
-- What has no range of its own: serials from clocks that are far off. It is pruned row by row.
CREATE TABLE meshmint.leaves_default PARTITION OF meshmint.leaves DEFAULT;

ALTER TABLE meshmint.others ADD PRIMARY KEY (serial, issuer);
CREATE INDEX ON meshmint.others (id);
CREATE INDEX ON meshmint.others (minute, id);

-- No serial of an issuer twice. Both parts of the time are in it, so each range keeps it for itself and nobody waits for anybody.
ALTER TABLE meshmint.leaves ADD PRIMARY KEY (serial, issuer);
CREATE INDEX ON meshmint.leaves (id);
-- Lists by notAfter, and all that is counted of the valid ones, without their rows.
CREATE INDEX ON meshmint.leaves (minute, id) INCLUDE (class, not_after, issued_at, revoked_at, holder_key);
-- Lists by the time of issue, what was issued lately, and what outdates a valid one.
CREATE INDEX ON meshmint.leaves (issued_at, id) INCLUDE (not_after, holder_key);
CREATE INDEX ON meshmint.leaves (holder_key, issued_at, id);
CREATE INDEX ON meshmint.leaves (namespace, id);
CREATE INDEX ON meshmint.leaves (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE VIEW meshmint.certificates AS SELECT * FROM meshmint.leaves UNION ALL SELECT * FROM meshmint.others;

-- The ranges that have a table, by the first four octets of serials; the end is not in it.
CREATE TABLE meshmint.ranges (
    begins bigint PRIMARY KEY,
    ends bigint NOT NULL,
    name text NOT NULL
);

-- How many leaves are on record, by the day in their serials. Each replica has its own rows, so that none waits for another; what was
-- pruned is taken off in rows of nobody ('').
CREATE TABLE meshmint.leaf_counts (
    day integer NOT NULL,
    replica text NOT NULL,
    class integer NOT NULL,
    total bigint NOT NULL,
    PRIMARY KEY (day, replica, class)
) WITH (fillfactor = 50);

-- The fence. One that was closed before it was ever opened has no authority and no opened_at, and stays closed.
CREATE TABLE meshmint.generations (
    generation bigint PRIMARY KEY,
    authority text,
    opened_at bigint,
    closed_at bigint
);

CREATE TABLE meshmint.bundles (
    number bigint PRIMARY KEY,
    pem text NOT NULL,
    at bigint NOT NULL
);

CREATE TABLE meshmint.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    detail text NOT NULL,
    reason text NOT NULL
);

-- One row for each start of a replica's process. written counts the certificates that it recorded: one that finds less here than was
-- acknowledged to it knows that records were lost. last_sequence is the highest replica_sequence on record, and outlives the records.
CREATE TABLE meshmint.replicas (
    id text PRIMARY KEY,
    generation bigint,
    bundle_number bigint,
    last_sequence bigint,
    written bigint NOT NULL DEFAULT 0,
    -- How many certificates left while the database was away and wait on its volume, as it said last.
    undrained bigint NOT NULL DEFAULT 0,
    -- How many certificates it knows to be lost, and when it said so for the last time that there were more.
    lost bigint NOT NULL DEFAULT 0,
    lost_at bigint,
    seen_at bigint NOT NULL
) WITH (fillfactor = 50);

-- The number of a batch. It has no gaps that matter: an id is batch * 4096 and more.
CREATE SEQUENCE meshmint.batches;
SELECT nextval('meshmint.batches');

CREATE FUNCTION meshmint.day_of(serial bytea) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    -- The first four octets are seconds / 4 (pki/subject.rs); 21,600 of them are a day.
    SELECT (((get_byte(padded, 0)::bigint << 24) | (get_byte(padded, 1) << 16) | (get_byte(padded, 2) << 8) | get_byte(padded, 3)) / 21600)::integer
    FROM (SELECT serial || '\x00000000'::bytea AS padded) AS padding
$$;

CREATE FUNCTION meshmint.prefix(number bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(int8send(number) FROM 5)
$$;

-- Fails where a commit would not survive the loss of power: nothing may be acknowledged then.
CREATE FUNCTION meshmint.must_be_durable() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('fsync') <> 'on' THEN
        RAISE EXCEPTION 'fsync is off: what is committed could be lost' USING ERRCODE = 'MM001';
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is %: what is committed could be lost', current_setting('synchronous_commit') USING ERRCODE = 'MM001';
    END IF;
    -- The fence reads what was committed before its statement began, after it waited for its lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the isolation is %: it must be read committed, or a closed generation could be taken as open',
            current_setting('transaction_isolation') USING ERRCODE = 'MM001';
    END IF;
END
$$;

-- Records a batch. p_class of a row is the place (from 1) of its class in the arrays of classes. Returns how many certificates the
-- replica has written in all, and for each row 0 (recorded), 1 (the serial is taken) or 2 (the generation is not open); NULL for all 0.
-- p_again: the batch may be on record from a try before, so what is there already with the same bytes is recorded.
-- p_fenced: false for what left while the ledger was away (spool.rs), which is recorded whatever happened to its generation since.
CREATE FUNCTION meshmint.record_1(
    p_writer text, p_again boolean, p_fenced boolean,
    k_kinds text[], k_issuers text[], k_generations bigint[], k_bundle_numbers bigint[], k_key_algorithms text[],
    p_class integer[], p_serial bytea[], p_sha256 bytea[], p_der bytea[], p_spiffe_id text[], p_cluster text[], p_namespace text[],
    p_service_account text[], p_pod_name text[], p_pod_uid text[], p_node_name text[], p_node_uid text[], p_holder text[], p_holder_key bytea[],
    p_profile_digest text[], p_credential text[], p_issued_at bigint[], p_not_before bigint[], p_not_after bigint[], p_replica text[],
    p_sequence bigint[],
    OUT r_written bigint, OUT r_outcomes smallint[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_first bigint;
    v_mark bigint;
    v_classes integer[];
    v_open bigint[];
    v_added integer[];
    v_others integer[] := '{}';
BEGIN
    PERFORM meshmint.must_be_durable();
    -- The fence: from here until this transaction has ended nobody closes these generations. Each statement sees what was committed
    -- before it began, so whether they are open is asked after this.
    PERFORM pg_advisory_xact_lock_shared(1297307725, (generation % 2147483647)::integer)
        FROM (SELECT DISTINCT unnest(k_generations) AS generation ORDER BY 1) AS wanted;
    SELECT last_value INTO v_mark FROM meshmint.batches;
    PERFORM pg_advisory_xact_lock_shared((19789::bigint << 48) | (v_mark & 281474976710655));
    v_first := nextval('meshmint.batches') * 4096;

    v_classes := meshmint.classes_1(k_kinds, k_issuers, k_generations, k_bundle_numbers, k_key_algorithms);
    IF p_fenced THEN
        v_open := ARRAY(SELECT generation FROM meshmint.generations WHERE generation = ANY (k_generations) AND closed_at IS NULL);
    ELSE
        v_open := k_generations;
    END IF;

    WITH added AS (
        INSERT INTO meshmint.leaves (id, class, issued_at, not_before, not_after, replica_sequence, minute, serial, issuer, sha256, holder_key,
            holder, spiffe_id, cluster, namespace, service_account, pod_name, pod_uid, node_name, node_uid, profile_digest, credential, replica, der)
        SELECT v_first + n, v_classes[class], issued_at, not_before, not_after, replica_sequence,
            least(not_after / 60000000, 2147483647)::integer, serial, k_issuers[class], sha256, holder_key, holder, spiffe_id, cluster, namespace,
            service_account, pod_name, pod_uid, node_name, node_uid,
            profile_digest, credential, replica, der
        FROM unnest(p_class, p_serial, p_sha256, p_der, p_spiffe_id, p_cluster, p_namespace, p_service_account, p_pod_name, p_pod_uid, p_node_name,
            p_node_uid, p_holder, p_holder_key, p_profile_digest, p_credential, p_issued_at, p_not_before, p_not_after, p_replica, p_sequence)
            WITH ORDINALITY AS input (class, serial, sha256, der, spiffe_id, cluster, namespace, service_account, pod_name, pod_uid, node_name,
            node_uid, holder, holder_key, profile_digest, credential, issued_at, not_before, not_after, replica, replica_sequence, n)
        WHERE k_kinds[class] = 'leaf' AND k_generations[class] = ANY (v_open)
            AND NOT EXISTS (SELECT 1 FROM meshmint.others AS o WHERE o.serial = input.serial AND o.issuer = k_issuers[input.class])
        ON CONFLICT (serial, issuer) DO NOTHING
        RETURNING id, class, serial
    ), counted AS (
        INSERT INTO meshmint.leaf_counts AS c (day, replica, class, total)
        SELECT meshmint.day_of(serial), p_writer, class, count(*) FROM added GROUP BY 1, 3 ORDER BY 1, 3
        ON CONFLICT (day, replica, class) DO UPDATE SET total = c.total + excluded.total
    )
    SELECT coalesce(array_agg((id - v_first)::integer), '{}') INTO v_added FROM added;

    IF EXISTS (SELECT 1 FROM unnest(k_kinds) AS kind WHERE kind <> 'leaf') THEN
        WITH added AS (
            INSERT INTO meshmint.others (id, class, issued_at, not_before, not_after, replica_sequence, minute, serial, issuer, sha256, holder_key,
                holder, spiffe_id, cluster, namespace, service_account, pod_name, pod_uid, node_name, node_uid, profile_digest, credential, replica,
                der)
            SELECT v_first + n, v_classes[class], p_issued_at[n], p_not_before[n], p_not_after[n], p_sequence[n],
                least(p_not_after[n] / 60000000, 2147483647)::integer, p_serial[n], k_issuers[class], p_sha256[n], p_holder_key[n], p_holder[n],
                p_spiffe_id[n],
                p_cluster[n], p_namespace[n], p_service_account[n], p_pod_name[n], p_pod_uid[n], p_node_name[n], p_node_uid[n],
                p_profile_digest[n], p_credential[n], p_replica[n], p_der[n]
            FROM unnest(p_class) WITH ORDINALITY AS input (class, n)
            WHERE k_kinds[class] <> 'leaf' AND k_generations[class] = ANY (v_open)
                AND NOT EXISTS (SELECT 1 FROM meshmint.leaves AS l WHERE l.serial = p_serial[input.n] AND l.issuer = k_issuers[input.class])
            ON CONFLICT (serial, issuer) DO NOTHING
            RETURNING id
        )
        SELECT coalesce(array_agg((id - v_first)::integer), '{}') INTO v_others FROM added;
        v_added := v_added || v_others;
    END IF;

    -- Something is written here even where nothing was added: its commit waits for the standby, and so for all that came before it.
    INSERT INTO meshmint.replicas AS r (id, written, last_sequence, seen_at)
    SELECT id, sum(written), max(sequence), max(at) FROM (
        SELECT p_writer AS id, cardinality(v_added) AS written, NULL::bigint AS sequence, meshmint.clock() AS at
        UNION ALL SELECT p_replica[n], 0, p_sequence[n], p_issued_at[n] FROM unnest(v_added) AS n
    ) AS seen GROUP BY id ORDER BY id
    ON CONFLICT (id) DO UPDATE SET written = r.written + excluded.written, last_sequence = greatest(r.last_sequence, excluded.last_sequence),
        seen_at = greatest(r.seen_at, excluded.seen_at);
    SELECT written INTO r_written FROM meshmint.replicas WHERE id = p_writer;

    IF cardinality(v_added) < cardinality(p_class) THEN
        r_outcomes := ARRAY(
            SELECT CASE
                WHEN n = ANY (v_added) THEN 0
                WHEN p_again AND EXISTS (SELECT 1 FROM meshmint.certificates AS c
                    WHERE c.serial = p_serial[input.n] AND c.issuer = k_issuers[input.class] AND c.sha256 = p_sha256[input.n]
                    AND c.replica = p_replica[input.n] AND c.replica_sequence = p_sequence[input.n]) THEN 0
                WHEN k_generations[class] = ANY (v_open) THEN 1
                ELSE 2
            END::smallint
            FROM unnest(p_class) WITH ORDINALITY AS input (class, n) ORDER BY n);
    END IF;
END
$$;

CREATE FUNCTION meshmint.clock() RETURNS bigint LANGUAGE sql AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- The numbers of classes, in the order that was asked; those that are new get one.
CREATE FUNCTION meshmint.classes_1(k_kinds text[], k_issuers text[], k_generations bigint[], k_bundle_numbers bigint[], k_key_algorithms text[])
RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    v_classes integer[];
BEGIN
    LOOP
        v_classes := ARRAY(
            SELECT c.class FROM unnest(k_kinds, k_issuers, k_generations, k_bundle_numbers, k_key_algorithms)
                WITH ORDINALITY AS k (kind, issuer, generation, bundle_number, key_algorithm, n)
            JOIN meshmint.classes AS c USING (kind, issuer, generation, bundle_number, key_algorithm) ORDER BY n);
        IF cardinality(v_classes) = cardinality(k_kinds) THEN
            RETURN v_classes;
        END IF;
        INSERT INTO meshmint.classes (kind, issuer, generation, bundle_number, key_algorithm)
        SELECT * FROM unnest(k_kinds, k_issuers, k_generations, k_bundle_numbers, k_key_algorithms) ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;

CREATE FUNCTION meshmint.count_write() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.must_be_durable();
    UPDATE meshmint.meta SET commits = commits + 1;
END
$$;

-- 0: it is open; 1: for another authority; 2: it was closed.
CREATE FUNCTION meshmint.open_generation_1(p_generation bigint, p_authority text, p_now bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_known meshmint.generations;
BEGIN
    PERFORM meshmint.count_write();
    INSERT INTO meshmint.generations (generation, authority, opened_at) VALUES (p_generation, p_authority, p_now) ON CONFLICT DO NOTHING;
    SELECT * INTO v_known FROM meshmint.generations WHERE generation = p_generation;
    RETURN CASE WHEN v_known.closed_at IS NOT NULL THEN 2 WHEN v_known.authority = p_authority THEN 0 ELSE 1 END;
END
$$;

-- Waits for every batch of the generation that has begun.
CREATE FUNCTION meshmint.close_generation_1(p_generation bigint, p_now bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1297307725, (p_generation % 2147483647)::integer);
    PERFORM meshmint.count_write();
    INSERT INTO meshmint.generations AS g (generation, closed_at) VALUES (p_generation, p_now)
    ON CONFLICT (generation) DO UPDATE SET closed_at = coalesce(g.closed_at, excluded.closed_at);
    RETURN 0;
END
$$;

-- 0: it is on record; 1: with other bytes.
CREATE FUNCTION meshmint.record_bundle_1(p_number bigint, p_pem text, p_now bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.count_write();
    INSERT INTO meshmint.bundles (number, pem, at) VALUES (p_number, p_pem, p_now) ON CONFLICT DO NOTHING;
    RETURN (SELECT CASE WHEN pem = p_pem THEN 0 ELSE 1 END FROM meshmint.bundles WHERE number = p_number);
END
$$;

CREATE FUNCTION meshmint.audit_1(p_at bigint, p_actor text, p_action text, p_detail text, p_reason text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.count_write();
    INSERT INTO meshmint.audit (at, actor, action, detail, reason) VALUES (p_at, p_actor, p_action, p_detail, p_reason);
    RETURN 0;
END
$$;

CREATE FUNCTION meshmint.replica_serves_1(p_replica text, p_generation bigint, p_bundle_number bigint, p_now bigint) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.count_write();
    INSERT INTO meshmint.replicas AS r (id, generation, bundle_number, seen_at) VALUES (p_replica, p_generation, p_bundle_number, p_now)
    ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, bundle_number = excluded.bundle_number,
        seen_at = greatest(r.seen_at, excluded.seen_at);
    RETURN 0;
END
$$;

-- Writes a little, and tells how things are: what the replica has written, how many certificates there are, which standbys commits wait
-- for, and how many standbys there are.
CREATE FUNCTION meshmint.alive_1(
    p_writer text, p_undrained bigint, p_lost bigint,
    OUT r_written bigint, OUT r_certificates bigint, OUT r_waited_for text, OUT r_standbys bigint, OUT r_lost_at bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.must_be_durable();
    INSERT INTO meshmint.replicas AS r (id, undrained, lost, lost_at, seen_at)
    VALUES (p_writer, p_undrained, p_lost, CASE WHEN p_lost > 0 THEN meshmint.clock() END, meshmint.clock())
    ON CONFLICT (id) DO UPDATE SET undrained = excluded.undrained, seen_at = greatest(r.seen_at, excluded.seen_at),
        lost = excluded.lost, lost_at = CASE WHEN excluded.lost > r.lost THEN excluded.lost_at ELSE r.lost_at END
    RETURNING r.written INTO r_written;
    -- What it knows itself it needn't be told.
    SELECT max(lost_at) INTO r_lost_at FROM meshmint.replicas WHERE id <> p_writer;
    SELECT coalesce(sum(total), 0) + (SELECT count(*) FROM meshmint.others) INTO r_certificates FROM meshmint.leaf_counts;
    r_waited_for := current_setting('synchronous_standby_names');
    SELECT count(*) INTO r_standbys FROM pg_stat_replication;
END
$$;

-- What these replicas had on their volumes is on record.
CREATE FUNCTION meshmint.drained_1(p_replicas text[]) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM meshmint.count_write();
    UPDATE meshmint.replicas SET undrained = 0 WHERE id = ANY (p_replicas) AND undrained > 0;
    RETURN 0;
END
$$;

-- Up to and with this id everything that will ever be there is there: whatever is still under way gets a higher one.
CREATE FUNCTION meshmint.complete_to_1() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_last bigint;
    v_under_way bigint;
BEGIN
    -- In this order: a batch that isn't seen below takes its number after the one read here.
    SELECT last_value INTO v_last FROM meshmint.batches;
    SELECT min(((classid::bigint & 65535) << 32) | objid::bigint) INTO v_under_way FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = 19789
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN least(v_last, v_under_way) * 4096 + 4095;
END
$$;

-- Forgets up to p_limit certificates that have no range, the oldest minute first.
CREATE FUNCTION meshmint.prune_rows_1(p_before bigint, p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_gone integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297307726, 1) THEN
        RETURN 0;
    END IF;
    WITH due AS MATERIALIZED (
        SELECT serial, issuer FROM (
            (SELECT minute, id, serial, issuer FROM meshmint.leaves_default WHERE minute <= p_before / 60000000 AND not_after < p_before
                ORDER BY minute, id LIMIT p_limit)
            UNION ALL
            (SELECT minute, id, serial, issuer FROM meshmint.others WHERE minute <= p_before / 60000000 AND not_after < p_before
                ORDER BY minute, id LIMIT p_limit)
        ) AS both_tables ORDER BY minute, id LIMIT p_limit
    ), leaves AS (
        DELETE FROM meshmint.leaves_default AS l USING due WHERE l.serial = due.serial AND l.issuer = due.issuer RETURNING l.serial, l.class
    ), others AS (
        DELETE FROM meshmint.others AS o USING due WHERE o.serial = due.serial AND o.issuer = due.issuer RETURNING 1
    ), counted AS (
        INSERT INTO meshmint.leaf_counts AS c (day, replica, class, total)
        SELECT meshmint.day_of(serial), '', class, -count(*) FROM leaves GROUP BY 1, 3 ORDER BY 1, 3
        ON CONFLICT (day, replica, class) DO UPDATE SET total = c.total + excluded.total
    )
    SELECT (SELECT count(*) FROM leaves) + (SELECT count(*) FROM others) INTO v_gone;
    RETURN v_gone;
END
$$;

-- Forgets what nothing on record refers to: replicas that were not seen since p_before (nor in the last week) and serve no open
-- generation, and bundles from before, but the newest, that no certificate was answered with.
CREATE FUNCTION meshmint.tidy_1(p_before bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297307726, 1) THEN
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM meshmint.replicas AS r WHERE undrained = 0 AND seen_at < p_before AND seen_at < meshmint.clock() - 604800000000
            AND NOT EXISTS (SELECT 1 FROM meshmint.generations AS g WHERE g.generation = r.generation AND g.closed_at IS NULL)
        RETURNING written
    ), counted AS (
        SELECT sum(written) AS written FROM gone
    )
    -- The mark that only grows keeps what they wrote.
    UPDATE meshmint.meta SET commits = commits + counted.written FROM counted WHERE counted.written IS NOT NULL;
    DELETE FROM meshmint.bundles WHERE at < p_before AND number < (SELECT max(number) FROM meshmint.bundles) AND number NOT IN (
        SELECT bundle_number FROM meshmint.classes WHERE class IN (
            SELECT class FROM meshmint.leaf_counts GROUP BY class HAVING sum(total) > 0 UNION ALL SELECT class FROM meshmint.others));
END
$$;

-- Gives the serials from p_begins to p_ends (not in it) a table of their own, and takes over what is there of them.
CREATE FUNCTION meshmint.make_range_1(p_begins bigint, p_ends bigint) RETURNS void LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    v_name text := 'leaves_' || p_begins;
BEGIN
    PERFORM pg_advisory_xact_lock(1297307726, 1);
    IF EXISTS (SELECT 1 FROM meshmint.ranges WHERE begins < p_ends AND ends > p_begins) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE meshmint.%I (LIKE meshmint.leaves INCLUDING STORAGE)', v_name);
    IF EXISTS (SELECT 1 FROM meshmint.leaves_default WHERE serial >= meshmint.prefix(p_begins) AND serial < meshmint.prefix(p_ends)) THEN
        LOCK TABLE meshmint.leaves_default IN SHARE ROW EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM meshmint.leaves_default WHERE serial >= meshmint.prefix(%s) AND serial < meshmint.prefix(%s) '
            'RETURNING *) INSERT INTO meshmint.%I SELECT * FROM moved', p_begins, p_ends, v_name);
    END IF;
    EXECUTE format('ALTER TABLE meshmint.leaves ATTACH PARTITION meshmint.%I FOR VALUES FROM (%L) TO (%L)', v_name, meshmint.prefix(p_begins),
        meshmint.prefix(p_ends));
    INSERT INTO meshmint.ranges (begins, ends, name) VALUES (p_begins, p_ends, v_name);
END
$$;

-- Drops the oldest range of which nothing lives until p_before. Returns how many certificates went; NULL where nothing is due.
-- Whoever records waits for it, so it gives up where it doesn't get its turn at once, and is called again.
CREATE FUNCTION meshmint.drop_range_1(p_before bigint) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
DECLARE
    v_range meshmint.ranges;
    v_lives boolean;
    v_gone bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297307726, 1) THEN
        RETURN NULL;
    END IF;
    FOR v_range IN SELECT * FROM meshmint.ranges WHERE ends * 4000000 <= p_before ORDER BY begins LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM meshmint.%I WHERE minute >= $1 AND not_after >= $2)', v_range.name)
            INTO v_lives USING least(p_before / 60000000, 2147483647)::integer, p_before;
        CONTINUE WHEN v_lives;
        EXECUTE format('DROP TABLE meshmint.%I', v_range.name);
        DELETE FROM meshmint.ranges WHERE begins = v_range.begins;
        WITH gone AS (
            DELETE FROM meshmint.leaf_counts WHERE day >= v_range.begins / 21600 AND day < v_range.ends / 21600 RETURNING total
        )
        SELECT coalesce(sum(total), 0) INTO v_gone FROM gone;
        RETURN v_gone;
    END LOOP;
    RETURN NULL;
END
$$;
