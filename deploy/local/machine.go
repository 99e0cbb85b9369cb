package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// machine says on what the claims were measured: figures without it cannot be compared. What cannot be found out is
// empty.
type machine struct {
	OS         string    `json:"os"`
	Arch       string    `json:"arch"`
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	MemoryMB   int64     `json:"memory_mb"`
	Go         string    `json:"go"`
	Postgres   string    `json:"postgres"`
	Redis      string    `json:"redis"`
	Scale      string    `json:"scale"`
	MeasuredAt time.Time `json:"measured_at"`
}

func describeMachine(ctx context.Context, databaseURL, redisURL, scale string) machine {
	m := machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), Scale: scale,
		Postgres: postgresVersion(ctx, databaseURL), Redis: redisVersion(ctx, redisURL),
		MeasuredAt: time.Now().UTC().Truncate(time.Second),
	}
	if runtime.GOOS == "darwin" {
		m.CPU = sysctl(ctx, "machdep.cpu.brand_string")
		bytes, _ := strconv.ParseInt(sysctl(ctx, "hw.memsize"), 10, 64)
		m.MemoryMB = bytes >> 20
		return m
	}
	m.CPU = field("/proc/cpuinfo", "model name")
	kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	m.MemoryMB = kilobytes >> 10
	return m
}

// field returns the value of the first `name: value` line of a file in /proc.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		key, value, _ := strings.Cut(scanner.Text(), ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func sysctl(ctx context.Context, name string) string {
	value, err := exec.CommandContext(ctx, "sysctl", "-n", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

func postgresVersion(ctx context.Context, url string) (version string) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return ""
	}
	defer conn.Close(ctx)
	_ = conn.QueryRow(ctx, "SHOW server_version").Scan(&version)
	return version
}

func redisVersion(ctx context.Context, url string) string {
	options, err := redis.ParseURL(url)
	if err != nil {
		return ""
	}
	client := redis.NewClient(options)
	defer client.Close()
	return client.InfoMap(ctx, "server").Item("Server", "redis_version")
}
