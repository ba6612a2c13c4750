//go:build !linux

package worker_test

import "testing"

func delegate(testing.TB) (dir string, memory bool) { return "", false }

func withoutCgroup(testing.TB) string { return "" }

func sweepCgroup(testing.TB, string) {}

func checkEmptied(*testing.T, string) {}

func forbidClone3() error { return nil }
