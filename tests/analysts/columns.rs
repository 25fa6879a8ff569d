//! docs/columns.md has every column that analysts may see, with its comment.

use std::{fs, path::Path};

use receiptd::store::Store;

use crate::{harness::app, roles::Member};

const PAGE: &str = include_str!("../../docs/columns.md");

const INTRODUCTION: &str = "# Every column

All tables and views that the roles `receiptd_reader` and `receiptd_member_reader` may read, with the
comments that `\\d+` in psql shows. Examples of their use are in [the cookbook](analysts.md).
";

const SECTIONS: &str = r"
    SELECT format(E'\n## %s\n\n%s\n\n| column | type | meaning |\n|---|---|---|\n%s', c.relname,
        replace(obj_description(c.oid, 'pg_class'), '*', '\*'),
        string_agg(format('| `%s` | %s | %s |', a.attname, format_type(a.atttypid, a.atttypmod),
            col_description(c.oid, a.attnum)), E'\n' ORDER BY a.attnum))
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND (
        has_column_privilege('receiptd_reader', c.oid, a.attnum, 'SELECT')
        OR has_column_privilege('receiptd_member_reader', c.oid, a.attnum, 'SELECT'))
    GROUP BY c.oid, c.relname ORDER BY c.relname";

#[tokio::test]
async fn every_column_that_analysts_may_see_is_documented() {
    let member = Member::of("receiptd_reader").await;
    let database = &member.database;
    database.psql(
        "DO $$ BEGIN CREATE ROLE receiptd_member_reader NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    );
    Store::new(&database.url().into(), 2, app()).unwrap().migrate().await.unwrap();
    let sections = database.psql(SECTIONS);
    let page = format!("{INTRODUCTION}\n{sections}\n");
    for column in ["| `discovered_at` |", "| `half_read_at_most_s` |", "| `member` |"] {
        assert!(page.contains(column), "{column}");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("columns.md");
    fs::write(&path, &page).unwrap();
    assert!(page == PAGE, "the comments in migrations/ have changed: copy {} to docs/columns.md", path.display());
}
