// Always the newest mask of each stream.
//
//   streamseg::Subscription masks("tcp://127.0.0.1:5570");
//   while (auto mask = masks.next()) use(mask->labels, streamseg::age_s(*mask));
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <zmq.hpp>
#include <zmq_addon.hpp>

#include "decode.hpp"

namespace streamseg {

struct Stats {
    uint64_t received, unchanged, skipped, lost, repeated, restarts, bad;
};

/// Seconds since the picture was taken, by this machine's clock.
inline double age_s(const Mask& mask) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    return (ns - mask.header["captured_unix_ns"].get<int64_t>()) / 1e9;
}

/// A thread of its own owns the sockets and empties them all the time, since ZeroMQ's and the kernel's buffers
/// would otherwise hold old masks. Waits for a daemon that is away; another run of it is another publisher.
class Subscription {
   public:
    explicit Subscription(std::string endpoint, std::vector<std::string> streams = {})
        : endpoint_(std::move(endpoint)) {
        for (const std::string kind : {"mask/", "same/"}) {
            for (const auto& stream : streams) topics_.push_back(kind + stream + "/");
            if (streams.empty()) topics_.push_back(kind);
        }
        stop_from_.bind("inproc://stop");
        thread_ = std::thread([this] { receive(); });
    }

    ~Subscription() {
        stop_from_.send(zmq::str_buffer("stop"), zmq::send_flags::none);
        thread_.join();
    }

    /// The next mask, of the stream that was served longest ago; nothing after `limit` without one.
    std::optional<Mask> next(std::chrono::milliseconds limit = std::chrono::hours(24 * 365)) {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        while (true) {
            std::unique_lock lock(changed_lock_);
            if (!changed_.wait_until(lock, deadline, [&] { return !slots_.empty(); })) return {};
            auto slot = slots_.begin();
            for (auto i = slots_.begin(); i != slots_.end(); ++i)
                if (served_[i->first] < served_[slot->first]) slot = i;
            const Slot waiting = std::move(slot->second);
            served_[slot->first] = ++turn_;
            slots_.erase(slot);
            lock.unlock();
            try {
                Mask mask = unpacked(*waiting.message, !waiting.same.is_null());
                if (!waiting.same.is_null()) {  // the mask that holds, with the times of an unchanged frame
                    const json kind = mask.header["kind"];
                    mask.header.update(waiting.same);
                    mask.header["kind"] = kind;
                }
                return mask;
            } catch (const std::exception&) {
                lock.lock();
                stats_.bad++;
            }
        }
    }

    /// Names and colours of a label set; null while they have not come.
    json classes(const std::string& label_set) {
        std::lock_guard lock(changed_lock_);
        return label_sets_.value(label_set, json());
    }

    Stats stats() {
        std::lock_guard lock(changed_lock_);
        return stats_;
    }

   private:
    struct Message {
        const Parts parts;
        std::mutex unpacking = {};  // guards the mask
        std::optional<Mask> mask = {};  // of which an unchanged frame has had the labels: the next one will, too
    };

    struct Slot {
        std::shared_ptr<Message> message;
        json same;  // an unchanged message's header; null for the mask itself
    };

    struct Last {
        uint64_t run, n, seq;  // seq of the mask, or of the last unchanged frame since
        bool snapshot;
        json header;
        std::shared_ptr<Message> message;
    };

    static Mask unpacked(Message& message, bool keep) {
        std::lock_guard lock(message.unpacking);
        if (message.mask) return *message.mask;
        Mask mask = decode(message.parts);
        if (keep) message.mask = mask;
        return mask;
    }

    void receive() {
        zmq::socket_t masks(context_, zmq::socket_type::sub), snapshots(context_, zmq::socket_type::dealer);
        zmq::socket_t monitor(context_, zmq::socket_type::pair), stop(context_, zmq::socket_type::pair);
        for (auto* socket : {&masks, &snapshots}) {
            socket->set(zmq::sockopt::linger, 0);
            socket->set(zmq::sockopt::rcvhwm, 0);
            socket->set(zmq::sockopt::maxmsgsize, int64_t{68157440});
            socket->set(zmq::sockopt::reconnect_ivl_max, 2000);
            socket->set(zmq::sockopt::tcp_keepalive, 1);
            socket->set(zmq::sockopt::tcp_keepalive_idle, 4);
            socket->set(zmq::sockopt::tcp_keepalive_intvl, 1);
            socket->set(zmq::sockopt::tcp_keepalive_cnt, 4);
        }
        zmq_socket_monitor(masks.handle(), "inproc://monitor", ZMQ_EVENT_ALL);
        monitor.connect("inproc://monitor");
        stop.connect("inproc://stop");
        masks.set(zmq::sockopt::subscribe, "labels/");
        for (const auto& topic : topics_) masks.set(zmq::sockopt::subscribe, topic);
        masks.connect(endpoint_);
        snapshots.connect(snapshot_endpoint());
        bool connected = false;
        auto heard = std::chrono::steady_clock::now();
        while (true) {
            zmq::pollitem_t items[] = {{masks.handle(), 0, ZMQ_POLLIN, 0},
                                       {monitor.handle(), 0, ZMQ_POLLIN, 0},
                                       {snapshots.handle(), 0, ZMQ_POLLIN, 0},
                                       {stop.handle(), 0, ZMQ_POLLIN, 0}};
            zmq::poll(items, 4, std::chrono::seconds(1));
            if (items[3].revents) return;
            if (items[1].revents) {
                heard = std::chrono::steady_clock::now();
                uint16_t event;
                std::memcpy(&event, take(monitor)[0].data(), sizeof event);
                if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
                    connected = true;
                    ask(snapshots);
                } else if (event == ZMQ_EVENT_DISCONNECTED) {
                    connected = false;
                }
            } else if (!connected && std::chrono::steady_clock::now() - heard > std::chrono::seconds(5)) {
                // libzmq gives a connection up for good when the other side broke the protocol.
                zmq_disconnect(masks.handle(), endpoint_.c_str());
                masks.connect(endpoint_);
                heard = std::chrono::steady_clock::now();
            }
            if (items[2].revents) put_snapshot(take(snapshots));
            if (items[0].revents) put(take(masks), false);
        }
    }

    static Parts take(zmq::socket_t& socket) {
        std::vector<zmq::message_t> messages;
        (void)zmq::recv_multipart(socket, std::back_inserter(messages));
        Parts parts;
        for (const auto& message : messages) parts.push_back(message.to_string());
        return parts;
    }

    void ask(zmq::socket_t& snapshots) {
        Parts prefixes = topics_;
        prefixes.insert(prefixes.begin(), "labels/");
        std::vector<zmq::const_buffer> buffers;
        const Parts request = snapshot_request(prefixes);
        for (const auto& part : request) buffers.push_back(zmq::buffer(part));
        (void)zmq::send_multipart(snapshots, buffers, zmq::send_flags::dontwait);
    }

    void put_snapshot(const Parts& reply) {
        try {
            for (const Parts& message : parse_snapshot(reply).messages) put(message, true);
        } catch (const std::exception&) {
            std::lock_guard lock(changed_lock_);
            stats_.bad++;
        }
    }

    void put(Parts parts, bool snapshot) {
        std::lock_guard lock(changed_lock_);
        json header;
        try {
            header = parse(parts);
        } catch (const std::exception&) {
            stats_.bad++;
            return;
        }
        if (header["kind"] == "labels") {
            label_sets_[header["id"].get<std::string>()] = header["classes"];
            return;
        }
        if (header["kind"] == "same") {
            put_unchanged(header);
            return;
        }
        stats_.received++;
        const std::string topic = parts[0];
        const auto kept = std::shared_ptr<Message>(new Message{std::move(parts)});
        const Last now{header["run"], header["n"], header["seq"], snapshot, header, kept};
        if (const auto found = last_.find(topic); found != last_.end()) {
            const Last& before = found->second;
            if (before.run == now.run) {
                if (now.n <= before.n) {
                    stats_.repeated++;
                    return;
                }
                if (header["revision"] == 0 && !before.snapshot) stats_.lost += now.n - before.n - 1;
            } else {
                if (snapshot && replaced_.count(now.run)) {
                    stats_.repeated++;
                    return;
                }
                stats_.restarts++;
                replaced_.insert(before.run);
            }
        }
        last_[topic] = now;
        hold(topic, {kept, nullptr});
    }

    /// A frame in which nothing has changed; one whose mask has not come is ignored.
    void put_unchanged(const json& same) {
        const std::string topic = "mask/" + same["stream"].get<std::string>() + "/";
        const auto found = last_.find(topic);
        if (found == last_.end() || !holds(same, found->second.header)) return;
        if (same["seq"] <= found->second.seq) {
            stats_.repeated++;
            return;
        }
        stats_.received++;
        stats_.unchanged++;
        found->second.seq = same["seq"];
        hold(topic, {found->second.message, same});
    }

    void hold(const std::string& topic, Slot slot) {
        stats_.skipped += slots_.count(topic);
        slots_[topic] = std::move(slot);
        changed_.notify_one();
    }

    std::string snapshot_endpoint() const {
        if (endpoint_.rfind("ipc:", 0) == 0) return endpoint_ + ".snapshot";
        const size_t colon = endpoint_.rfind(':') + 1;
        return endpoint_.substr(0, colon) + std::to_string(std::stoi(endpoint_.substr(colon)) + 1);
    }

    const std::string endpoint_;
    std::vector<std::string> topics_;
    zmq::context_t context_;
    zmq::socket_t stop_from_{context_, zmq::socket_type::pair};
    std::mutex changed_lock_;  // guards what stands below
    std::condition_variable changed_;
    std::map<std::string, Slot> slots_;   // topic → the message that waits
    std::map<std::string, Last> last_;    // topic → the mask that came last
    std::map<std::string, uint64_t> served_;
    std::set<uint64_t> replaced_;  // runs that a newer one has replaced
    json label_sets_ = json::object();
    Stats stats_{};
    uint64_t turn_ = 0;
    std::thread thread_;
};

}  // namespace streamseg
