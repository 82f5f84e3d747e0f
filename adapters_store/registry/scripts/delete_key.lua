if not lookup(API_KEYS) then
  return answer('unknown_key')
end
announce_key('key_deleted')
return answer('ok')
