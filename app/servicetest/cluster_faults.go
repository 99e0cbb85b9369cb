package servicetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// FailOver kills a master with kill -9 and returns once every other node knows its replica as the master of its slots.
// What the replica did not have yet is lost. Restart brings the killed one back, as a replica.
func (c *Cluster) FailOver(ctx context.Context, master *RedisServer) error {
	if err := master.Kill(); err != nil {
		return err
	}
	err := c.await(ctx, func(ctx context.Context, client *redis.Client) error {
		shares, err := client.ClusterSlots(ctx).Result() //nolint:staticcheck // it lists the nodes that work
		if err != nil {
			return err
		}
		for _, share := range shares {
			if share.Nodes[0].Addr == master.Addr() {
				return fmt.Errorf("%s has slots %d to %d still", master.Addr(), share.Start, share.End)
			}
		}
		return nil
	})
	return errors.Join(err, c.Ready(ctx))
}

// Migrate moves the slot of a key to another master while clients use it, as a live resharding does. The midway
// functions run when all keys of the slot have moved and the slot has not: clients are redirected by ASK then, and by
// MOVED once Migrate has returned.
func (c *Cluster) Migrate(ctx context.Context, key string, to *RedisServer, midway ...func() error) error {
	slot, err := c.slot(ctx, key)
	if err != nil {
		return err
	}
	from, err := c.Owner(ctx, key)
	if err != nil {
		return err
	}
	source, target := redis.NewClient(from.Options()), redis.NewClient(to.Options())
	defer source.Close()
	defer target.Close()
	sourceID, err := source.ClusterMyID(ctx).Result()
	if err != nil {
		return err
	}
	targetID, err := target.ClusterMyID(ctx).Result()
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID).Err() },
		func() error { return source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", targetID).Err() },
		func() error { return moveKeys(ctx, source, slot, to) },
		func() error { return runAll(midway) },
		func() error { return moveKeys(ctx, source, slot, to) },
		func() error { return target.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err() },
		func() error { return source.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err() },
		func() error { return c.know(ctx, slot, to) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("migrate slot %d from %s to %s: %w", slot, from.Addr(), to.Addr(), err)
		}
	}
	return nil
}

func runAll(functions []func() error) error {
	for _, f := range functions {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func moveKeys(ctx context.Context, source *redis.Client, slot int, to *RedisServer) error {
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 100).Result()
		if err != nil || len(keys) == 0 {
			return err
		}
		command := []any{"MIGRATE", "127.0.0.1", strconv.Itoa(to.Port), "", 0, 5000, "KEYS"}
		for _, key := range keys {
			command = append(command, key)
		}
		if err := source.Do(ctx, command...).Err(); err != nil {
			return err
		}
	}
}

// know returns once every node knows the new owner of the slot.
func (c *Cluster) know(ctx context.Context, slot int, owner *RedisServer) error {
	return c.await(ctx, func(ctx context.Context, client *redis.Client) error {
		shares, err := client.ClusterSlots(ctx).Result() //nolint:staticcheck // it lists the nodes that work
		if err != nil {
			return err
		}
		for _, share := range shares {
			if share.Start <= slot && slot <= share.End && share.Nodes[0].Addr == owner.Addr() {
				return nil
			}
		}
		return fmt.Errorf("slot %d is not known to be on %s", slot, owner.Addr())
	})
}
