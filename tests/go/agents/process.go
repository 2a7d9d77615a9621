// Processor time, of the server as `meshmint bench` reads it and our own.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type serverUse struct {
	CPUSeconds     float64  `json:"cpu_seconds"`
	PerCertificate *float64 `json:"cpu_us_per_certificate"`
}

type usage struct{ server, own time.Duration }

func (l *load) usage() (usage, error) {
	if l.serverPID == 0 {
		return usage{own: ownCPU()}, nil
	}
	server, err := threads(l.serverPID)
	return usage{server: server, own: ownCPU()}, err
}

// serverUse waits until the server has used less than 2 % of a core twice in a row.
func (l *load) serverUse(before usage) (*serverUse, error) {
	if l.serverPID == 0 {
		return nil, nil
	}
	const pause = 250 * time.Millisecond
	last, err := threads(l.serverPID)
	for quiet := 0; quiet < 2 && err == nil; {
		time.Sleep(pause)
		var now time.Duration
		now, err = threads(l.serverPID)
		quiet++
		if now-last > pause/50 {
			quiet = 0
		}
		last = now
	}
	return &serverUse{CPUSeconds: (last - before.server).Seconds()}, err
}

// threads is the sum of /proc/PID/task/*/schedstat: nanoseconds, without threads that ended.
func threads(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d can't be read", pid)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has just ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanoseconds, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum, nil
}

func ownCPU() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
