// SPDX-License-Identifier: GPL-2.0
/*
 * The gates of a device's queues: all of them have the same setting, which is changed here.
 *
 * Readers (queue_rq and ublk_publish()) look at a gate inside an RCU read section. A change that
 * somebody relies on is followed by a grace period, so that afterwards
 * - no tag goes from ACTIVE to QUEUED, if the gate is not OPEN any more;
 * - every request that was turned away is on the requeue list, if the gate was not OPEN before.
 */
#include "ublk_drv.h"

/* Returns what it was. dev->mutex held. */
static enum ublk_gate ublk_gates_set(struct ublk_device *dev, enum ublk_gate gate)
{
	enum ublk_gate was = dev->queues[0]->gate;
	u16 i;

	lockdep_assert_held(&dev->mutex);
	for (i = 0; i < dev->nr_queues; i++)
		WRITE_ONCE(dev->queues[i]->gate, gate);
	return was;
}

/* dev->mutex held. */
bool ublk_gates_are(const struct ublk_device *dev, enum ublk_gate gate)
{
	lockdep_assert_held(&dev->mutex);
	return dev->queues[0]->gate == gate;
}

/* A server is there, with every tag: it gets the requests, also those that waited. */
void ublk_gates_open(struct ublk_device *dev)
{
	enum ublk_gate was = ublk_gates_set(dev, UBLK_GATE_OPEN);

	if (was == UBLK_GATE_HOLD || was == UBLK_GATE_PAUSE) {
		synchronize_rcu();
		ublk_kick(dev);
	}
}

/* Requests wait, while the server goes on with those that it has. */
void ublk_gates_pause(struct ublk_device *dev)
{
	ublk_gates_set(dev, UBLK_GATE_PAUSE);
	synchronize_rcu();
}

/*
 * No request passes after this returns; those that passed before are in their lanes. From now on
 * they wait for the next server or fail, and with them those that waited already.
 */
void ublk_gates_close(struct ublk_device *dev)
{
	bool hold = ublk_dev_holds_requests(dev) && dev->disk && !dev->stopping;
	enum ublk_gate gate = hold ? UBLK_GATE_HOLD : UBLK_GATE_FAIL;

	if (ublk_gates_set(dev, gate) == gate)
		return;
	synchronize_rcu();
	if (gate == UBLK_GATE_FAIL)
		ublk_kick(dev);
}
