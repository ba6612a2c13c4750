// Small Go tools of the people who work on Drover, beside no module so that nothing
// inherits their requirements. Run one so, from the repository's root:
//
//	GOWORK=off go tool -modfile=tools/dev.mod benchstat old.txt new.txt
module github.com/droverhq/drover

go 1.26.0

tool (
	golang.org/x/perf/cmd/benchstat
	golang.org/x/vuln/cmd/govulncheck
	mvdan.cc/gofumpt
)

require (
	golang.org/x/perf v0.0.0-20260908200009-22c9c6c9d4da
	golang.org/x/vuln v1.8.0
	mvdan.cc/gofumpt v0.12.0
)

require (
	github.com/aclements/go-moremath v0.0.0-20210112150236-f10218a38794 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/telemetry v0.0.0-20260908163034-4bcc4b2ee518 // indirect
	golang.org/x/tools v0.50.0 // indirect
)
